//! What every store promises: the suite, and the macro that runs it on one of them.
//!
//! Each test gets a fresh, empty store. To run it on another store, call [`conformance!`] with
//! that store's name and an expression that opens one; the value is kept until the test ends.

pub(crate) mod append;
pub(crate) mod credentials;
pub(crate) mod directory;
pub(crate) mod forget;
pub(crate) mod logins;
pub(crate) mod tables;
pub(crate) mod tokens;
pub(crate) mod trim;
pub(crate) mod used;

/// Runs the whole suite as a module `conformance` of the store's own module.
macro_rules! conformance {
    ($open:expr) => {
        crate::store::conformance::conformance!($open, append: [
            a_batch_is_there_once_it_is_committed,
            an_entry_reads_back_as_its_exact_bytes,
            a_moved_head_is_a_conflict_with_what_was_missed,
            a_base_of_another_history_is_refused,
            an_empty_batch_compares_with_the_head,
            a_lost_reply_is_settled_by_the_batch_id,
            entries_that_do_not_continue_the_base_are_refused,
            a_refused_batch_leaves_nothing,
            an_entry_of_an_unknown_version_is_never_skipped,
            changes_are_dense_and_bounded,
            nothing_is_after_the_head,
            a_closed_store_is_unavailable,
        ]);
        crate::store::conformance::conformance!($open, tables: [
            an_empty_store_has_an_empty_snapshot,
            a_snapshot_is_what_was_put,
            a_snapshot_is_of_one_revision,
            a_raised_format_comes_first_in_a_snapshot,
            a_dropped_snapshot_ends,
            rotation_and_update_change_what_they_name,
            revoking_again_keeps_the_first_instant,
            a_cut_off_keeps_its_newest_revision,
            deleting_a_principal_takes_its_grants_and_memberships,
            removing_a_member_may_cut_off_its_team_tokens,
            a_change_that_does_not_fit_is_refused,
            a_random_history_is_in_the_snapshot,
            a_snapshot_makes_the_state_of_a_replay,
        ]);
        crate::store::conformance::conformance!($open, forget: [
            forgetting_takes_what_ended_in_one_slice,
            forgetting_takes_what_lost_its_subject,
            requests_are_forgotten_after_their_time,
            a_repeated_request_key_replaces_the_former,
            requests_are_bounded,
        ]);
        crate::store::conformance::conformance!($open, tokens: [
            a_token_is_shown_with_its_names,
            tokens_are_filtered,
            token_filters_must_all_hold,
            what_is_taken_back_is_no_longer_found,
            tokens_are_filtered_by_state,
            cut_off_tokens_are_shown_as_revoked,
            tokens_are_paged_in_order,
            a_subtree_is_not_a_text_prefix,
        ]);
        crate::store::conformance::conformance!($open, used: [
            a_use_is_shown_with_its_token,
            the_latest_use_stands_with_its_address,
            a_use_of_no_token_leaves_nothing,
            many_uses_are_noted_at_once,
            a_use_is_no_change,
            a_use_is_forgotten_with_its_token,
            a_closed_store_notes_nothing,
        ]);
        crate::store::conformance::conformance!($open, directory: [
            principals_are_filtered_and_paged,
            a_principal_is_shown_with_its_texts,
            members_are_listed_from_both_sides,
            roles_are_filtered_and_paged,
            grants_are_filtered_and_paged,
        ]);
        crate::store::conformance::conformance!($open, credentials: [
            what_logins_need_is_in_the_snapshot,
            what_is_put_again_takes_the_place_of_the_former,
            a_deleted_method_is_gone,
            an_account_that_goes_takes_its_methods_and_locks,
            ended_sessions_and_locks_are_forgotten,
            locks_that_have_ended_go_with_the_next,
            locks_are_ended_one_by_one,
            a_compromised_session_cuts_off_what_it_issued,
            a_credential_keeps_its_public_key,
            a_public_key_that_was_revoked_is_not_forgotten,
            a_login_spends_and_stores,
            a_credential_without_its_method_is_shown_as_revoked,
            stored_access_tokens_are_cut_off_with_the_sessions,
        ]);
        crate::store::conformance::conformance!($open, logins: [
            failures_are_counted_by_key,
            a_count_begins_anew_after_its_time,
            failures_at_once_are_all_counted,
            a_cleared_count_begins_anew,
            counts_beside_each_other_are_cleared_together,
            an_assertion_is_used_once,
            an_assertion_may_come_again_after_its_time,
            of_many_at_once_one_uses_an_assertion,
            used_assertions_go_after_their_time,
            logins_are_listed_newest_first,
            logins_are_filtered,
            renewals_and_exchanges_are_listed_with_their_parents,
            logins_are_paged,
            a_login_noted_twice_stands_once,
            old_logins_go_with_those_that_come,
            logins_are_no_changes,
            a_closed_store_knows_no_logins,
        ]);
        mod trims {
            crate::store::conformance::trimming!($open, [
                a_trimmed_log_goes_on_from_its_cut,
                what_was_before_the_cut_is_said_to_be_trimmed,
                a_trim_keeps_what_it_is_told_to,
                a_trim_keeps_the_answers_of_remembered_requests,
            ]);
        }
    };
    ($open:expr, $subject:ident: [$($test:ident,)*]) => {
        mod $subject {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fresh = $open;
                    crate::store::conformance::$subject::$test(&fresh.store).await;
                }
            )*
        }
    };
}

/// The tests that need more of what was opened than the store.
macro_rules! trimming {
    ($open:expr, [$($test:ident,)*]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::store::conformance::trim::$test(&$open).await;
            }
        )*
    };
}

pub(super) use {conformance, trimming};
