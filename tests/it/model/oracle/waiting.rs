//! Where src is known to be other than DESIGN.md or the API's documentation asks.
//!
//! The oracle follows src while a constant is true, so that the random runs go on looking for
//! what is not known yet. Whoever mends src sets it to false, sees the runs agree, and removes
//! it together with the branch that it guards.

/// A token that was cut off as an issuer, then issued, was then revoked, and only then is
/// revoked as compromised: what it issued in between lives on.
pub(crate) const COMPROMISED_LATE: bool = false;
/// An expired token can be updated; the API says FAILED_PRECONDITION.
pub(crate) const EXPIRED_IS_UPDATED: bool = false;
/// The secret before a rotation revokes the token even after its grace has ended.
pub(crate) const ENDED_GRACE_REVOKES: bool = false;
/// A narrowed token without `tokens:revoke` cuts off what it or a sibling issued.
pub(crate) const NARROWED_CUTS_OFF: bool = false;
/// Cutting off a removed member's team tokens needs no `tokens:revoke`.
pub(crate) const REMOVAL_CUTS_OFF: bool = false;
/// An update can give a token both a period and a bound of renewals, and the bound is ignored.
pub(crate) const PERIOD_BESIDE_BOUND: bool = false;
/// A derived token is renewed beyond the expiry of its ancestors (a Check still denies).
pub(crate) const RENEWED_BEYOND_ANCESTORS: bool = false;
/// A maximum lifetime below the lifetime clips it; the API says that it is not less.
pub(crate) const BOUND_BELOW_TTL: bool = false;
/// A token that has children can be given a use limit, which its children pass.
pub(crate) const PARENTS_GET_USES: bool = false;
/// What a token issued that State has forgotten cannot be cut off.
pub(crate) const FORGOTTEN_ISSUERS: bool = false;
