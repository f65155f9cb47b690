//! `check` without a stanza: all stanzas of the config file, one after the other.

use std::fs;

use pgbr_testkit::{Cluster, Finished, run};

use crate::rig::{LIMIT, PASS, Rig, cluster, said};

/// The rig's stanza `demo`, and one named `other` with a cluster of its own in the same repository and config file.
fn two() -> (Rig, Cluster) {
    let rig = Rig::with(|pgbr| {
        let secret = pgbr.scratch().path().join("secret");
        fs::write(&secret, PASS).expect("it can be written");
        pgbr_testkit::own(&secret);
        pgbr.set("global", "repo1-cipher-type", "aes-256-gcm");
        // Each stanza says what opens it, as in pgBackRest.
        for stanza in ["demo", "other"] {
            pgbr.set(stanza, "repo1-cipher-pass-file", &secret.display().to_string());
        }
    });
    let other = cluster();
    let set = |option: &str, value: String| rig.pgbr.set("other", &format!("pg1-{option}"), &value);
    set("path", other.data_dir().display().to_string());
    set("socket-path", other.socket_dir().display().to_string());
    set("port", other.port().to_string());
    set("user", "postgres".to_owned());
    let made = bare(&rig, &["--stanza=other", "stanza-create"]);
    assert!(made.success(), "{made:#?}");
    let command = rig.pgbr.archive_command().replace("--stanza=demo", "--stanza=other");
    other.set_conf("archive_command", &command);
    other.reload();
    (rig, other)
}

/// Runs the program with the rig's config file and nothing else.
fn bare(rig: &Rig, args: &[&str]) -> Finished {
    let config = format!("--config={}", rig.pgbr.config_path().display());
    run(rig.pgbr.bare_command([config.as_str()]).args(args), "", LIMIT)
}

/// The lines hold these words, one line after the other.
#[track_caller]
fn says(finished: &Finished, words: &[&str]) {
    let text = said(finished);
    let mut rest = text.as_str();
    for word in words {
        let found = rest.find(word).unwrap_or_else(|| panic!("'{word}' is missing: {text}"));
        rest = &rest[found..];
    }
}

#[test]
fn every_stanza_is_checked_whatever_becomes_of_the_others() {
    let (rig, other) = two();
    let all = bare(&rig, &["check"]);
    assert_eq!(all.code, Some(0), "{all:#?}");
    let arrived = "successfully archived";
    says(&all, &["check stanza 'demo'", arrived, "check stanza 'other'", arrived]);

    rig.pgbr.set("demo", "pg1-port", "1");
    let one = bare(&rig, &["check"]);
    assert_eq!(one.code, Some(56), "{one:#?}");
    says(
        &one,
        &[
            "ERROR: [056]: stanza 'demo': ",
            "check stanza 'other'",
            arrived,
            "ERROR: [056]: check command failed on stanza 'demo'",
        ],
    );
    // The second is of the first one's cluster: another error, so none is the command's.
    rig.pgbr.set("other", "pg1-path", &rig.cluster.data_dir().display().to_string());
    rig.pgbr.set("third:check", "repo1-cipher-type", "none");
    let several = bare(&rig, &["check"]);
    assert_eq!(several.code, Some(104), "{several:#?}");
    says(
        &several,
        &[
            "ERROR: [056]: stanza 'demo': ",
            "ERROR: [058]: stanza 'other': ",
            "ERROR: [037]: stanza 'third': check command requires option: pg1-path",
            "ERROR: [104]: check command failed on stanza 'demo', 'other', 'third'",
        ],
    );
    drop(other);
}

#[test]
fn without_stanzas_there_is_nothing_to_check() {
    let rig = Rig::plain();
    let config = rig.pgbr.scratch().path().join("global.conf");
    fs::write(&config, "[global]\nprocess-max=2\n[global:check]\narchive-timeout=1\n[empty]\n")
        .expect("it is ours");
    pgbr_testkit::own(&config);
    let config = format!("--config={}", config.display());
    let none = run(&mut rig.pgbr.bare_command([config.as_str(), "check"]), "", LIMIT);
    assert_eq!(none.code, Some(0), "{none:#?}");
    says(&none, &["WARN: no stanzas found to check", "HINT: are there non-empty stanza sections"]);

    let bytes = [
        &fs::read(rig.pgbr.config_path()).expect("it is there")[..],
        b"\n[\xe9:backup]\npg1-path=/x\n[\xe8]\n[\xe9]\npg1-path=/x\n",
    ]
    .concat();
    fs::write(rig.pgbr.config_path(), bytes).expect("it is ours");
    let faulty = bare(&rig, &["check"]);
    assert_eq!(faulty.code, Some(29), "{faulty:#?}");
    says(
        &faulty,
        &["successfully archived", "ERROR: [029]: stanza '\u{fffd}': section is not valid UTF-8 at line "],
    );
}
