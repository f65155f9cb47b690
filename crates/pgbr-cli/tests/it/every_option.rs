//! For every option that works or is refused for good, a test that fails if the option is ignored; and that all others are accepted or refused as
//! the table says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgbr_cli::options::{
    Allow, COMMANDS, Command, CommandRule, Kind, Needs, OPTIONS, OptionRule, Section, Support, key_name,
};
use pgbr_cli::settings::Settings;

use crate::{all, fails};

/// Option, and the test that fails if it is ignored: `module::name`, of these tests or of the program's own modules.
#[rustfmt::skip]
const SHOWN: &[(&str, &str)] = &[
    ("allow-root", "values::root_is_refused_where_it_does_harm"),
    ("annotation", "annotations::annotations_are_added_changed_and_taken_away"),
    ("archive-async", "asynchronous::a_worker_is_on_its_own_and_one_with_other_settings_takes_over"),
    ("archive-check", "bad_input::a_server_that_does_not_answer_or_does_not_archive"),
    ("archive-copy", "brought_wal::the_wal_of_the_archive_becomes_part_of_the_backup"),
    ("archive-expire-before", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("archive-get-queue-max", "asynchronous::how_much_is_done_at_a_time"),
    ("archive-header-check", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("archive-mode", "recovery::settings_of_the_recovery_are_as_given"),
    ("archive-mode-check", "bad_input::a_server_that_does_not_answer_or_does_not_archive"),
    ("archive-push-batch-size", "asynchronous::how_much_is_done_at_a_time"),
    ("archive-push-queue-max", "asynchronous::a_queue_that_is_too_long_is_cut_and_says_so"),
    ("archive-timeout", "bad_input::a_server_that_does_not_answer_or_does_not_archive"),
    ("backup-age-max", "window::check_warns_of_what_is_too_old_in_each_repository"),
    ("backup-standby", "standbys::data_files_are_read_from_the_standby_and_come_back_whole"),
    ("budget", "verify::a_budget_covers_everything_in_the_end"),
    ("checksum-page", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("cmd", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("compress", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("compress-level", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("compress-type", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("config", "config::what_is_named_must_be_there_and_be_a_config_file"),
    ("config-include-path", "config::what_is_named_must_be_there_and_be_a_config_file"),
    ("config-path", "config::files_count_together_and_secrets_for_all_are_warned_about"),
    ("db-exclude", "selective::databases_that_are_not_wanted_are_hollow_and_can_be_dropped"),
    ("db-include", "selective::databases_that_are_not_wanted_are_hollow_and_can_be_dropped"),
    ("db-timeout", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("delta", "delta::what_is_right_is_not_touched_and_what_is_wrong_is_mended"),
    ("detail-level", "effects::how_a_process_runs_and_where_it_tells"),
    ("drill-age-max", "window::check_warns_of_what_is_too_old_in_each_repository"),
    ("drill-db", "drill::databases_that_are_left_out_are_not_checked"),
    ("drill-keep", "drill::databases_that_are_left_out_are_not_checked"),
    ("drill-option", "drill::a_sound_backup_is_proven_and_nothing_is_left"),
    ("drill-path", "drill::what_a_drill_needs_is_told_before_it_restores"),
    ("drill-sql", "drill::statements_that_fail_or_give_false_refute_a_backup"),
    ("drill-sql-file", "drill::statements_that_fail_or_give_false_refute_a_backup"),
    ("drill-timeout", "drill::what_takes_too_long_is_given_up"),
    ("drill-user", "drill::what_a_drill_needs_is_told_before_it_restores"),
    ("dry-run", "retention::backups_beyond_the_count_go_with_their_dependants_and_their_wal"),
    ("exclude", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("exec-id", "effects::how_a_process_runs_and_where_it_tells"),
    ("expire-auto", "retention::expire_after_a_backup_is_a_command_of_its_own"),
    ("export-file", "keys::a_repository_comes_back_by_its_exported_key"),
    ("export-pass", "keys::a_repository_comes_back_by_its_exported_key"),
    ("filter", "browse::tools_see_what_they_expect"),
    ("force", "stopping::a_stanza_is_removed_when_nothing_uses_it"),
    ("generate", "keys::passphrases_come_and_go_without_data_being_written_again"),
    ("help", "command_line::help_and_version_without_a_command"),
    ("hold", "retention::a_backup_goes_by_name_and_the_last_one_does_not"),
    ("hold-reason", "annotations::chains_errors_and_details_are_shown"),
    ("ignore-missing", "browse::what_is_missing_or_no_path"),
    ("io-timeout", "secret_places::a_passphrase_that_a_command_prints"),
    ("link-all", "layouts::what_links_lead_to_comes_back_in_their_place_or_behind_links"),
    ("link-map", "layouts::what_links_lead_to_comes_back_in_their_place_or_behind_links"),
    ("lock-path", "scenarios::one_backup_at_a_time_on_one_host_and_on_two"),
    ("log-level-console", "effects::how_a_process_runs_and_where_it_tells"),
    ("log-level-file", "effects::how_a_process_runs_and_where_it_tells"),
    ("log-level-stderr", "effects::how_a_process_runs_and_where_it_tells"),
    ("log-path", "effects::how_a_process_runs_and_where_it_tells"),
    ("log-timestamp", "effects::how_a_process_runs_and_where_it_tells"),
    ("neutral-umask", "effects::how_a_process_runs_and_where_it_tells"),
    ("new-cipher-pass", "keys::passphrases_come_and_go_without_data_being_written_again"),
    ("oldest", "retention::a_backup_goes_by_name_and_the_last_one_does_not"),
    ("online", "brought_wal::a_stopped_cluster_is_backed_up_with_all_that_it_needs"),
    ("output", "retention::backups_beyond_the_count_go_with_their_dependants_and_their_wal"),
    ("pg-bin-path", "drill::what_a_drill_needs_is_told_before_it_restores"),
    ("pg-database", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("pg-path", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("pg-port", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("pg-socket-path", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("pg-user", "effects::where_a_server_is_and_how_long_it_may_take"),
    ("pg-version-force", "values::what_is_not_supported"),
    ("pgbackrest-remove", "their_rest::it_is_told_once_ours_is_enough_and_removed_by_name"),
    ("priority", "effects::how_a_process_runs_and_where_it_tells"),
    ("process-max", "effects::how_a_process_runs_and_where_it_tells"),
    ("quick", "verify::a_sound_repository_is_clean_plain"),
    ("raw", "browse::tools_see_what_they_expect"),
    ("recovery-option", "recovery::settings_of_the_recovery_are_as_given"),
    ("recovery-window", "window::a_lost_segment_cuts_the_moments_in_two"),
    ("recurse", "browse::nothing_that_is_needed_is_removed"),
    ("reference", "manifest::ours_are_told_in_the_same_form"),
    ("repo", "several_repos::commands_work_on_all_repositories_and_a_backup_on_the_first"),
    ("repo-azure-account", "effects::what_a_store_is_asked"),
    ("repo-azure-container", "effects::what_a_store_is_asked"),
    ("repo-azure-endpoint", "effects::what_a_store_is_asked"),
    ("repo-azure-key", "effects::what_a_store_is_asked"),
    ("repo-azure-key-type", "effects::what_a_store_is_asked"),
    ("repo-azure-uri-style", "effects::what_a_store_is_asked"),
    ("repo-cipher-pass", "bad_input::a_wrong_passphrase_is_one_error_before_anything_is_touched"),
    ("repo-cipher-type", "bad_input::a_cipher_that_the_repository_does_not_have_is_refused"),
    ("repo-gcs-bucket", "effects::what_a_store_is_asked"),
    ("repo-gcs-endpoint", "effects::what_a_store_is_asked"),
    ("repo-gcs-key", "effects::what_a_store_is_asked"),
    ("repo-gcs-key-type", "effects::what_a_store_is_asked"),
    ("repo-gcs-user-project", "effects::what_a_store_is_asked"),
    ("repo-pack-size", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-path", "several_repos::commands_work_on_all_repositories_and_a_backup_on_the_first"),
    ("repo-pgbackrest-cipher-pass", "swap::the_same_encrypted_and_asynchronously"),
    ("repo-retention-archive", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-archive-type", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-daily", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-diff", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-full", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-full-type", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-monthly", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-weekly", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-retention-yearly", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("repo-s3-bucket", "effects::what_a_store_is_asked"),
    ("repo-s3-endpoint", "effects::what_a_store_is_asked"),
    ("repo-s3-key", "effects::what_a_store_is_asked"),
    ("repo-s3-key-secret", "repository::an_s3_bucket_with_its_defaults"),
    ("repo-s3-key-type", "effects::what_a_store_is_asked"),
    ("repo-s3-kms-key-id", "effects::what_a_store_is_asked"),
    ("repo-s3-process-cmd", "store_options::keys_come_from_files_and_commands_and_hosts_from_options"),
    ("repo-s3-region", "effects::what_a_store_is_asked"),
    ("repo-s3-requester-pays", "effects::what_a_store_is_asked"),
    ("repo-s3-role", "effects::what_a_store_is_asked"),
    ("repo-s3-service", "store_options::what_is_wrong_is_told_with_a_way_out"),
    ("repo-s3-sse-customer-key", "effects::what_a_store_is_asked"),
    ("repo-s3-sts-host", "effects::what_a_store_is_asked"),
    ("repo-s3-token", "effects::what_a_store_is_asked"),
    ("repo-s3-uri-style", "effects::what_a_store_is_asked"),
    ("repo-storage-ca-file", "stores::over_tls"),
    ("repo-storage-ca-path", "stores::over_tls"),
    ("repo-storage-host", "store_options::keys_come_from_files_and_commands_and_hosts_from_options"),
    ("repo-storage-port", "store_options::keys_come_from_files_and_commands_and_hosts_from_options"),
    ("repo-storage-tag", "effects::what_a_store_is_asked"),
    ("repo-storage-verify-tls", "store_options::what_is_wrong_is_told_with_a_way_out"),
    ("repo-target-time", "stores::what_was_deleted_is_restored_as_it_was"),
    ("repo-type", "effects::what_a_store_is_asked"),
    ("restore-config", "layouts::config_files_elsewhere_are_stored_and_written_only_when_asked"),
    ("resume", "signals::a_backup_that_is_asked_to_end_takes_away_what_it_stored"),
    ("set", "recovery::the_backup_is_the_one_asked_for_or_the_newest_that_can_reach_the_target"),
    ("slot", "keys::passphrases_come_and_go_without_data_being_written_again"),
    ("slot-name", "keys::passphrases_come_and_go_without_data_being_written_again"),
    ("sort", "browse::tools_see_what_they_expect"),
    ("spool-path", "asynchronous::what_a_spool_holds_of_other_times_is_not_believed"),
    ("stanza", "bad_input::words_that_are_not_understood_and_stanzas_that_are_not_there"),
    ("start-fast", "effects::what_a_backup_stores_and_what_expire_keeps"),
    ("tablespace-map", "layouts::tablespaces_come_back_in_place_or_where_they_are_wanted"),
    ("tablespace-map-all", "layouts::tablespaces_come_back_in_place_or_where_they_are_wanted"),
    ("target", "recovery::a_backup_under_load_comes_back_at_every_moment"),
    ("target-action", "recovery::a_server_pauses_promotes_or_stops_at_its_target"),
    ("target-exclusive", "recovery::a_backup_under_load_comes_back_at_every_moment"),
    ("target-timeline", "timelines::every_end_of_every_timeline_can_be_reached"),
    ("to-repo", "repo_copy::a_chain_goes_from_a_sealed_repository_to_a_plain_one_and_back"),
    ("type", "recovery::a_backup_under_load_comes_back_at_every_moment"),
    ("verbose", "verify::a_sound_repository_is_clean_plain"),
    ("verify", "repo_copy::all_wal_since_the_backup_comes_along_where_that_is_wanted"),
    ("version", "help::versions"),
    ("wal", "repo_copy::all_wal_since_the_backup_comes_along_where_that_is_wanted"),
    ("wal-age-max", "window::check_warns_of_what_is_too_old_in_each_repository"),
    ("witness", "witness::what_was_taken_away_or_put_back_is_found"),
    ("witness-accept", "witness::what_was_taken_away_or_put_back_is_found"),
    ("witness-path", "witness::what_was_taken_away_or_put_back_is_found"),
    ("write-only", "writers::a_database_host_does_its_work_and_reads_nothing"),
];

/// Commands that the options below are tried with, the first one that takes them.
const TRIED: [Command; 8] = [
    Command::Backup,
    Command::Restore,
    Command::ArchivePush,
    Command::ArchiveGet,
    Command::Check,
    Command::StanzaCreate,
    Command::StanzaDelete,
    Command::Info,
];

/// What the kinds of repositories cannot do without; where it does not apply it does not count.
const CONFIG: &str = "[global]\nrepo1-azure-account=a\nrepo1-azure-container=c\nrepo1-azure-key=aHVzaA==\n";

#[test]
fn every_option_that_works_has_one() {
    let works = |rule: &&OptionRule| {
        let mut commands = COMMANDS.iter().filter(|known| rule.valid_for(known.command));
        let support = |known: &CommandRule| rule.support_for(known.command);
        commands.any(|known| matches!(support(known), Support::Works | Support::Refused(_)))
    };
    let works: BTreeSet<&str> = OPTIONS.iter().filter(works).map(|rule| rule.name).collect();
    assert!(SHOWN.is_sorted_by(|one, two| one.0 < two.0), "they are sorted, and none is there twice");
    let shown: BTreeSet<&str> = SHOWN.iter().map(|(option, _)| *option).collect();
    let missing: Vec<_> = works.difference(&shown).collect();
    let more: Vec<_> = shown.difference(&works).collect();
    assert!(missing.is_empty() && more.is_empty(), "without a test: {missing:?}; that do not work: {more:?}");
}

#[test]
fn the_tests_are_there() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests/it"] {
        collect(&tree.join(dir), &mut files);
    }
    for (option, test) in SHOWN {
        let (module, name) = test.split_once("::").unwrap();
        let file = format!("{module}.rs");
        let attribute = format!("#[test]\nfn {name}()");
        let within = attribute.replace('\n', "\n    ");
        let there = files.iter().filter(|path| path.file_name().is_some_and(|known| known == file.as_str()));
        let mut texts = there.map(|path| fs::read_to_string(path).unwrap());
        assert!(
            texts.any(|text| text.contains(&attribute) || text.contains(&within)),
            "{option}: there is no test {test}"
        );
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("it is in the tree") {
        let path = entry.expect("it is in the tree").path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}

#[test]
fn what_has_no_effect_is_taken_and_noted() {
    let mut seen = 0;
    for (rule, command) in
        OPTIONS.iter().filter_map(|rule| tried(rule, |s| matches!(s, Support::NoEffect(_))))
    {
        let settings = all(&args(rule, command), &[], CONFIG);
        let settings: Settings = settings.unwrap_or_else(|error| panic!("{}: {}", rule.name, error.text()));
        let note = format!("option '{}' has no effect: ", key_name(rule, 1));
        let notes = settings.notes();
        assert!(notes.iter().any(|known| known.starts_with(&note)), "{note}: {notes:?}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn what_is_not_there_yet_is_refused() {
    let mut seen = 0;
    for (rule, command) in OPTIONS.iter().filter_map(|rule| tried(rule, |s| *s == Support::NotYet)) {
        let (code, text) = fails(all(&args(rule, command), &[], CONFIG));
        assert!(code == 31 || code == 67, "{}: {text}", rule.name);
        // Some need another one that is not there yet, which is named then.
        assert!(text.contains("is not supported"), "{}: {text}", rule.name);
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

/// The option with a command that takes it and has it in this state.
fn tried(
    rule: &'static OptionRule,
    state: impl Fn(&Support) -> bool,
) -> Option<(&'static OptionRule, Command)> {
    let has = |command: &Command| rule.valid_for(*command) && state(&rule.support_for(*command));
    TRIED.into_iter().find(has).map(|command| (rule, command))
}

/// A command line with the option, and with what it needs.
fn args(rule: &'static OptionRule, command: Command) -> String {
    let mut words = vec![command.name().to_owned(), "--stanza=d".to_owned()];
    if command != Command::Info && rule.name != "pg-path" {
        words.push("--pg1-path=/p".to_owned());
    }
    let mut needed = rule.needs_for(command);
    while let Some(Needs { option, values, .. }) = needed {
        let other = OPTIONS.iter().find(|rule| rule.name == option).expect("the table has it");
        if !["pg-path", "stanza"].contains(&option) {
            words.push(word(other, command, values.first().copied()));
        }
        needed = other.needs_for(command);
    }
    words.push(word(rule, command, None));
    words.join(" ")
}

fn word(rule: &OptionRule, command: Command, value: Option<&str>) -> String {
    let sample = match (rule.kind, rule.allow_for(command)) {
        (_, Allow::Values([first, ..])) => first,
        (_, Allow::Range(from, _) | Allow::RangeMap(&[(_, from, _), ..])) => from,
        (Kind::Boolean, _) => "y",
        (Kind::Hash, _) => "k=v",
        (Kind::Path, _) => "/v",
        (Kind::Integer | Kind::Size | Kind::Time, _) => "1",
        _ => "v",
    };
    let name = key_name(rule, 1);
    assert!(!rule.secret || rule.section == Section::Global);
    let name = if rule.secret { format!("{name}-command") } else { name };
    format!("--{name}={}", value.unwrap_or(sample))
}
