//! What one entry changes in the tables: the same facts as `state::apply`, for people and for
//! the next start.
//!
//! A change says what is from now on, so nothing is decided here; but a change that does not fit
//! the tables (a member that is not there, a digest under another key) is refused, so that log
//! and tables cannot part. Runs inside the transaction that writes the log.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Fault;
use super::forget;
use super::log::HeadRow;
use super::login_row;
use super::token_row::{self, Beside};
use crate::domain::change::{
    Change, CutOffTarget, Display, GrantRecord, Issuer, PrincipalRecord, RoleRecord, TokenRecord,
};
use crate::domain::entry::{Entry, REQUESTS_MAX, Request};
use crate::domain::principal::{GrantId, PrincipalId, RoleName};
use crate::domain::token::{Digest, TokenId};
use crate::store::columns::{cut_off_columns, unpack_issuers};

/// Projects one entry; `head` is the head row of this transaction and keeps the counts.
pub(super) fn project(
    connection: &Connection,
    head: &mut HeadRow,
    entry: &Entry,
) -> Result<(), Fault> {
    project_change(connection, head, entry)?;
    if let Some(request) = &entry.request {
        put_request(connection, head, entry, request)?;
    }
    head.instant_ms = entry.instant_ms;
    head.state_digest = entry.state_digest;
    Ok(())
}

fn project_change(connection: &Connection, head: &mut HeadRow, entry: &Entry) -> Result<(), Fault> {
    match &entry.change {
        Change::PutToken {
            record,
            digest,
            display,
        } => put_token(connection, entry, record, digest.as_ref(), display),
        Change::RevokeToken { id, compromised } => {
            revoke_token(connection, entry, *id)?;
            if *compromised {
                put_cut_off(connection, entry, &CutOffTarget::IssuedByToken(*id))?;
            }
            Ok(())
        }
        Change::CutOff(target) => put_cut_off(connection, entry, target),
        Change::UseToken { id, left } => use_token(connection, entry, *id, *left),
        Change::PutPrincipal { record, display } => {
            head.principal_max = head.principal_max.max(record.id.0);
            put_principal(connection, entry, record, display)
        }
        Change::DeletePrincipal(id) => delete_principal(connection, entry, *id),
        Change::AddMember { team, member } => add_member(connection, entry, *team, *member),
        Change::RemoveMember {
            team,
            member,
            cut_off_tokens,
        } => {
            remove_member(connection, *team, *member)?;
            if *cut_off_tokens {
                let target = CutOffTarget::IssuedForTeam(*team, *member);
                put_cut_off(connection, entry, &target)?;
            }
            Ok(())
        }
        Change::PutRole { record, display } => put_role(connection, entry, record, display),
        Change::DeleteRole(name) => delete_role(connection, name),
        Change::PutGrant(record) => {
            head.grant_max = head.grant_max.max(record.id.0);
            put_grant(connection, entry, record)
        }
        Change::DeleteGrant(id) => delete_grant(connection, *id),
        Change::Forget { before_ms, slice } => {
            forget::forget_tokens(connection, *before_ms, *slice)?;
            forget::forget_logins(connection, *before_ms)?;
            head.requests -= forget::forget_requests(connection, entry.instant_ms)?;
            Ok(())
        }
        Change::RaiseFormat(level) => {
            head.format = head.format.max(*level);
            Ok(())
        }
        Change::Login { spent, token } => {
            if let Some((id, left)) = spent {
                use_token(connection, entry, *id, *left)?;
            }
            let Some(new) = token else {
                return Ok(());
            };
            let digest = Some(&new.digest);
            put_token(connection, entry, &new.record, digest, &new.display)
        }
        Change::RevokeSession { .. }
        | Change::PutMethod(_)
        | Change::DeleteMethod { .. }
        | Change::Lock { .. }
        | Change::Unlock { .. }
        | Change::PutSealKeys(_) => project_logins(connection, entry),
    }
}

fn project_logins(connection: &Connection, entry: &Entry) -> Result<(), Fault> {
    match &entry.change {
        Change::RevokeSession {
            session,
            until_ms,
            compromised,
            ..
        } => {
            login_row::revoke_session(connection, entry, *session, *until_ms)?;
            if *compromised {
                put_cut_off(connection, entry, &CutOffTarget::IssuedByToken(*session))?;
            }
            Ok(())
        }
        Change::PutMethod(record) => {
            let written = login_row::put_method(connection, entry, record)?;
            one_row(written, "a method's principal is gone")
        }
        Change::DeleteMethod { principal, method } => {
            let deleted = login_row::delete_method(connection, *principal, *method)?;
            one_row(deleted, "no such method")
        }
        Change::Lock {
            principal,
            network,
            until_ms,
        } => {
            login_row::delete_ended_locks(connection, *principal, entry.instant_ms)?;
            let written = login_row::put_lock(connection, entry, *principal, *network, *until_ms)?;
            one_row(written, "a lock's principal is gone")
        }
        Change::Unlock {
            principal,
            networks,
        } => networks.iter().try_for_each(|network| {
            let deleted = login_row::delete_lock(connection, *principal, *network)?;
            one_row(deleted, "no such lock")
        }),
        Change::PutSealKeys(keys) => keys
            .iter()
            .try_for_each(|record| login_row::put_seal_key(connection, entry, record)),
        _ => Ok(()),
    }
}

fn one_row(written: usize, what: &'static str) -> Result<(), Fault> {
    (written == 1).then_some(()).ok_or(Fault::refused(what))
}

fn put_token(
    connection: &Connection,
    entry: &Entry,
    record: &TokenRecord,
    digest: Option<&Digest>,
    display: &Display,
) -> Result<(), Fault> {
    let sql = "-- put_token\nSELECT issuers, substr(digest, 1, 16) FROM tokens WHERE id = ?1";
    let stored: Option<(Vec<u8>, [u8; 16])> = connection
        .prepare_cached(sql)?
        .query_row([record.id.to_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let stored_key = stored.as_ref().map(|(_, key)| u128::from_be_bytes(*key));
    if digest.map(Digest::key).or(stored_key) != Some(record.key) {
        return Err(Fault::refused("a token's key is not that of its digest"));
    }
    let beside = Beside {
        digest,
        changed_at: entry.revision,
        last4: display.last4.as_deref(),
        name: display.name.as_deref(),
        description: display.description.as_deref(),
    };
    token_row::write(connection, record, &beside, stored.is_some())?;
    let former = match &stored {
        Some((packed, _)) => unpack_issuers(packed).ok_or(Fault::Row("issuer"))?,
        None => Vec::new(),
    };
    if former != record.issuers {
        forget::delete_issuers(connection, record.id, &former)?;
        insert_issuers(connection, record.id, &record.issuers)?;
    }
    let Some(labels) = &display.labels else {
        return Ok(());
    };
    forget::delete_labels(connection, record.id)?;
    let sql =
        "-- put_token_label\nINSERT INTO token_labels (token, key, value) VALUES (?1, ?2, ?3)";
    let mut insert = connection.prepare_cached(sql)?;
    for (key, value) in labels {
        insert.execute(params![record.id.to_bytes(), key, value])?;
    }
    Ok(())
}

fn insert_issuers(connection: &Connection, id: TokenId, issuers: &[Issuer]) -> Result<(), Fault> {
    // One principal may answer for a token twice, from two revisions on.
    let sql =
        "-- insert_issuers\nINSERT OR IGNORE INTO token_issuers (principal, token) VALUES (?1, ?2)";
    let mut insert = connection.prepare_cached(sql)?;
    for principal in issuers.iter().filter_map(|issuer| issuer.principal) {
        insert.execute(params![principal.0, id.to_bytes()])?;
    }
    Ok(())
}

fn revoke_token(connection: &Connection, entry: &Entry, id: TokenId) -> Result<(), Fault> {
    // A second revocation keeps the first instant and the first reason.
    let sql = "-- revoke_token
        UPDATE tokens SET changed_at = ?2,
          revoke_reason = CASE WHEN revoked_at IS NULL THEN ?4 ELSE revoke_reason END,
          ended_ms = CASE WHEN revoked_at IS NULL THEN min(coalesce(ended_ms, ?3), ?3)
            ELSE ended_ms END,
          revoked_ms = coalesce(revoked_ms, ?3), revoked_at = coalesce(revoked_at, ?2)
        WHERE id = ?1";
    let written = connection.prepare_cached(sql)?.execute(params![
        id.to_bytes(),
        entry.revision,
        entry.instant_ms,
        entry.reason,
    ])?;
    one_row(written, "no such token to revoke")
}

fn use_token(connection: &Connection, entry: &Entry, id: TokenId, left: u32) -> Result<(), Fault> {
    let sql = "-- use_token
        UPDATE tokens SET uses_left = ?2, changed_at = ?3
        WHERE id = ?1 AND uses_limit IS NOT NULL";
    let mut update = connection.prepare_cached(sql)?;
    let written = update.execute(params![id.to_bytes(), left, entry.revision])?;
    one_row(written, "no such token with a budget of uses")
}

fn put_cut_off(connection: &Connection, entry: &Entry, target: &CutOffTarget) -> Result<(), Fault> {
    let sql = "-- put_cut_off
        INSERT INTO cut_offs (kind, target, revision) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET revision = max(revision, excluded.revision)";
    let (kind, text) = cut_off_columns(target);
    let mut insert = connection.prepare_cached(sql)?;
    let written = insert.execute(params![kind, text, entry.revision])?;
    one_row(written, "a cut-off")
}

fn put_principal(
    connection: &Connection,
    entry: &Entry,
    record: &PrincipalRecord,
    display: &Display,
) -> Result<(), Fault> {
    let sql = "-- put_principal
        INSERT INTO principals (id, kind, name, home, disabled, made_at, created_ms, changed_at,
          display_name, description, labels)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, coalesce(?9, ''), coalesce(?10, ''),
          coalesce(?11, '{}'))
        ON CONFLICT (id) DO UPDATE SET kind = ?2, name = ?3, home = ?4, disabled = ?5,
          made_at = ?6, changed_at = ?8, display_name = coalesce(?9, display_name),
          description = coalesce(?10, description), labels = coalesce(?11, labels)
        WHERE deleted_at IS NULL";
    let written = connection.prepare_cached(sql)?.execute(params![
        record.id.0,
        record.name.kind() as u8,
        record.name.to_string(),
        record.home.as_str(),
        record.disabled,
        record.made_at,
        entry.instant_ms,
        entry.revision,
        display.name,
        display.description,
        labels_text(display)?,
    ])?;
    one_row(written, "the principal is gone")
}

fn labels_text(display: &Display) -> Result<Option<String>, Fault> {
    let labels = display.labels.as_ref();
    let text = labels.map(serde_json::to_string).transpose();
    text.map_err(|_| Fault::refused("its labels are no JSON"))
}

fn delete_principal(connection: &Connection, entry: &Entry, id: PrincipalId) -> Result<(), Fault> {
    let sql = "-- delete_principal
        UPDATE principals SET deleted_at = ?2, changed_at = ?2
        WHERE id = ?1 AND deleted_at IS NULL";
    let mut update = connection.prepare_cached(sql)?;
    let written = update.execute(params![id.0, entry.revision])?;
    one_row(written, "no such principal")?;
    for sql in [
        "-- delete_principal: its grants\nDELETE FROM grants WHERE principal = ?1",
        "-- delete_principal: its members\nDELETE FROM members WHERE team = ?1",
        "-- delete_principal: its teams\nDELETE FROM members WHERE member = ?1",
        "-- delete_principal: its methods\nDELETE FROM login_methods WHERE principal = ?1",
        "-- delete_principal: its locks\nDELETE FROM login_locks WHERE principal = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([id.0])?;
    }
    Ok(())
}

fn add_member(
    connection: &Connection,
    entry: &Entry,
    team: PrincipalId,
    member: PrincipalId,
) -> Result<(), Fault> {
    let sql = "-- add_member\nINSERT INTO members (team, member, made_at) VALUES (?1, ?2, ?3)";
    let mut insert = connection.prepare_cached(sql)?;
    let written = insert.execute(params![team.0, member.0, entry.revision])?;
    one_row(written, "a member")
}

fn remove_member(
    connection: &Connection,
    team: PrincipalId,
    member: PrincipalId,
) -> Result<(), Fault> {
    let sql = "-- remove_member\nDELETE FROM members WHERE team = ?1 AND member = ?2";
    let mut delete = connection.prepare_cached(sql)?;
    one_row(delete.execute([team.0, member.0])?, "no such member")
}

fn put_role(
    connection: &Connection,
    entry: &Entry,
    record: &RoleRecord,
    display: &Display,
) -> Result<(), Fault> {
    let sql = "-- put_role
        INSERT INTO roles (name, home, actions, made_at, created_ms, changed_at, description,
          labels)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, ''), coalesce(?8, '{}'))
        ON CONFLICT (name) DO UPDATE SET home = ?2, actions = ?3, made_at = ?4, changed_at = ?6,
          description = coalesce(?7, description), labels = coalesce(?8, labels)";
    let actions: Vec<&str> = record
        .actions
        .iter()
        .map(|action| action.as_str())
        .collect();
    let written = connection.prepare_cached(sql)?.execute(params![
        record.name.as_str(),
        record.home.as_str(),
        actions.join(" "),
        record.made_at,
        entry.instant_ms,
        entry.revision,
        display.description,
        labels_text(display)?,
    ])?;
    one_row(written, "a role")
}

fn delete_role(connection: &Connection, name: &RoleName) -> Result<(), Fault> {
    let sql = "-- delete_role\nDELETE FROM roles WHERE name = ?1";
    let mut delete = connection.prepare_cached(sql)?;
    one_row(delete.execute([name.as_str()])?, "no such role")
}

fn put_grant(connection: &Connection, entry: &Entry, record: &GrantRecord) -> Result<(), Fault> {
    let sql = "-- put_grant
        INSERT INTO grants (id, principal, role, resource, made_at, created_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let written = connection.prepare_cached(sql)?.execute(params![
        record.id.0,
        record.principal.0,
        record.role.as_str(),
        record.resource.as_str(),
        record.made_at,
        entry.instant_ms,
    ])?;
    one_row(written, "a grant")
}

fn delete_grant(connection: &Connection, id: GrantId) -> Result<(), Fault> {
    let sql = "-- delete_grant\nDELETE FROM grants WHERE id = ?1";
    one_row(
        connection.prepare_cached(sql)?.execute([id.0])?,
        "no such grant",
    )
}

fn put_request(
    connection: &Connection,
    head: &mut HeadRow,
    entry: &Entry,
    request: &Request,
) -> Result<(), Fault> {
    // A key may come again once its time is over and before it was forgotten.
    let sql = "-- put_request: a former one\nDELETE FROM requests WHERE key = ?1";
    head.requests -= connection.prepare_cached(sql)?.execute([request.key])?;
    let sql = "-- put_request
        INSERT INTO requests (revision, key, fingerprint, instant_ms) VALUES (?1, ?2, ?3, ?4)";
    head.requests += connection.prepare_cached(sql)?.execute(params![
        entry.revision,
        request.key,
        request.fingerprint,
        entry.instant_ms,
    ])?;
    if head.requests > REQUESTS_MAX {
        let sql = "-- put_request: the oldest
            DELETE FROM requests WHERE revision = (SELECT min(revision) FROM requests)";
        head.requests -= connection.prepare_cached(sql)?.execute([])?;
    }
    Ok(())
}
