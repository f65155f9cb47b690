//! pgBackRest itself, to write repositories that its format is read from, and to restore what is to be compared.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, SUPERUSER};
use crate::operator::as_operator;
use crate::run::{Finished, run};
use crate::scratch::Scratch;

/// No single command of a test takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// pgBackRest with one stanza and some repositories in directories.
///
/// It is Debian's `/usr/bin/pgbackrest`, or the program that `PGBR_TEST_PGBACKREST` names.
#[derive(Debug)]
pub struct PgBackRest {
    program: PathBuf,
    stanza: String,
    scratch: Scratch,
}

impl PgBackRest {
    /// Sets up a stanza for a cluster. `repositories` has the options of each, without the `repoN-` before their names; path and retention are
    /// set here. `options` are for all.
    ///
    /// # Panics
    /// When the program is missing or the directories cannot be made.
    pub fn new(
        stanza: &str,
        cluster: &Cluster,
        repositories: &[Vec<(&str, String)>],
        options: &[(&str, String)],
    ) -> Self {
        let program = PathBuf::from(
            std::env::var_os("PGBR_TEST_PGBACKREST").unwrap_or_else(|| "/usr/bin/pgbackrest".into()),
        );
        assert!(program.is_file(), "{} is missing: run scripts/setup-tests.sh", program.display());
        let scratch = Scratch::new();
        let mut text = String::from("[global]\nlog-level-file=off\nlog-level-console=warn\nstart-fast=y\n");
        let line = |text: &mut String, name: &str, value: &str| {
            writeln!(text, "{name}={value}").expect("a string takes what is written");
        };
        for name in ["lock", "spool"] {
            line(&mut text, &format!("{name}-path"), &scratch.dir(name).display().to_string());
        }
        for (nth, repository) in (1..).zip(repositories) {
            let path = scratch.dir(&format!("repo{nth}"));
            line(&mut text, &format!("repo{nth}-path"), &path.display().to_string());
            line(&mut text, &format!("repo{nth}-retention-full"), "9");
            for (name, value) in repository {
                line(&mut text, &format!("repo{nth}-{name}"), value);
            }
        }
        for (name, value) in options {
            line(&mut text, name, value);
        }
        let pg1 = [
            ("path", cluster.data_dir().display().to_string()),
            ("socket-path", cluster.socket_dir().display().to_string()),
            ("port", cluster.port().to_string()),
            ("user", SUPERUSER.to_owned()),
        ];
        writeln!(text, "\n[{stanza}]").expect("a string takes what is written");
        for (name, value) in pg1 {
            line(&mut text, &format!("pg1-{name}"), &value);
        }
        scratch.file("pgbackrest.conf", text);
        Self { program, stanza: stanza.to_owned(), scratch }
    }

    /// Its version, as numbers: `(2, 45)`.
    ///
    /// # Panics
    /// When it does not say one.
    pub fn version() -> (u32, u32) {
        let program =
            std::env::var_os("PGBR_TEST_PGBACKREST").unwrap_or_else(|| "/usr/bin/pgbackrest".into());
        let finished = run(Command::new(&program).arg("version"), "", LIMIT);
        let numbers = finished.stdout.trim().trim_start_matches("pgBackRest ").splitn(3, ['.', 'd']);
        let mut numbers = numbers.map(|number| number.parse().expect("a version consists of numbers"));
        (numbers.next().expect("a version has a first number"), numbers.next().expect("and a second one"))
    }

    /// The directory of a repository, counted from 1.
    pub fn repository(&self, number: usize) -> PathBuf {
        self.scratch.path().join(format!("repo{number}"))
    }

    /// The directory that the repositories lie in: room for what a test keeps beside them.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What `archive_command` has to be, with more options.
    pub fn archive_command(&self, options: &str) -> String {
        format!("{} {} {options} archive-push %p", self.program.display(), self.common().join(" "))
    }

    /// Runs a command with the config file and stanza given.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Finished {
        let mut command = Command::new(&self.program);
        run(as_operator(&mut command).args(self.common()).args(args), "", LIMIT)
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ok<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Finished {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let finished = self.run(&args);
        assert!(finished.success(), "pgbackrest {args:?} failed: {finished:#?}");
        finished
    }

    fn common(&self) -> [String; 2] {
        let config: &Path = &self.scratch.path().join("pgbackrest.conf");
        [format!("--config={}", config.display()), format!("--stanza={}", self.stanza)]
    }
}
