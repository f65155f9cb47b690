//! A repository on a file system without hard links, as shares of Windows are (repo-type=cifs).

use std::process::Command;

use pgbr_testkit::{Pgbr, as_operator, run, words_of};

use crate::rig::{LIMIT, Rig, restore_into};

/// Makes the stanza while the system refuses hard links with this error.
fn create_without_links(pgbr: &Pgbr, error: &str) {
    let create = pgbr.command(["stanza-create"]);
    let mut strace = Command::new("strace");
    as_operator(&mut strace).args(["--seccomp-bpf", "-f", "-e", "trace=linkat,prctl"]);
    strace.args(["-e", &format!("inject=linkat:error={error}"), "-e", "inject=prctl:retval=0"]);
    strace.arg("-o").arg(pgbr.scratch().file("trace", "")).args(words_of(&create));
    let finished = run(&mut strace, "", LIMIT);
    assert!(finished.success(), "{error}: {finished:#?}");
}

#[test]
fn objects_get_names_that_nothing_can_replace() {
    for error in ["EOPNOTSUPP", "EPERM"] {
        let rig = Rig::with(|pgbr| {
            pgbr.set("global", "repo1-type", "cifs");
            create_without_links(pgbr, error);
        });
        let text = std::fs::read_to_string(rig.pgbr.repo_dir().join("pgbr/repo.json")).unwrap();
        assert!(text.contains("\"create\":false"), "{text}");
        let label = rig.backup();
        let segment = rig.archived_segment();
        // Names carry what makes them unique: the attempt, the digest.
        let held = |dir: &str, name: &str| {
            let entries = std::fs::read_dir(rig.stanza_dir().join(dir)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|found| found.starts_with(name)).collect::<Vec<_>>()
        };
        let manifests = held(&format!("backup/{label}"), "manifest-");
        assert_eq!(manifests.len(), 1, "{manifests:?}");
        let segments = held(&format!("archive/15-1/{}", &segment[..16]), &format!("{segment}-"));
        assert_eq!(segments.len(), 1, "{segments:?}");
        let target = rig.target();
        rig.pgbr.ok(restore_into(&target));
        assert!(target.data_dir().join("global/pg_control").exists());
    }
}
