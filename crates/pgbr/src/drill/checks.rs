//! What a recovered cluster has to stand: its indexes and tables looked through, the operator's statements, its checksums.

use std::path::Path;

use pgbr_manifest::{Lsn, PgVersion};
use pgbr_repo::{CheckResult, DrillCheck};

use super::Drill;
use super::server::Server;
use super::settings::PORT;
use super::tool::{Ended, Tool, command};
use crate::error::{Result, with_causes};

/// The longest words of a program that are told, in characters.
const MAX_WORDS: usize = 1000;
/// The longest part of a statement that is shown, in characters.
const MAX_STATEMENT: usize = 200;
/// The exit code of `pg_amcheck` where it found damage (src/bin/pg_amcheck/pg_amcheck.c).
const DAMAGE: i32 = 2;

/// What came out of a check, and what it says.
type Verdict = (CheckResult, Option<String>);

fn passed() -> Verdict {
    (CheckResult::Passed, None)
}

fn failed(words: impl Into<String>) -> Verdict {
    (CheckResult::Failed, Some(words.into()))
}

fn skipped(why: impl Into<String>) -> Verdict {
    (CheckResult::Skipped, Some(why.into()))
}

impl Drill<'_> {
    /// Whether recovery came to the end of the archive: a missing segment looks like the end.
    pub(super) async fn check_wal(&self, reached: Option<Lsn>) -> Result<DrillCheck> {
        let verdict = match self.gap {
            // Another repository had it.
            Some(gap) if reached.is_none_or(|lsn| lsn <= gap.start) => failed(format!(
                "recovery ended early: WAL segment {} is missing in the archive, and later ones are there",
                gap.segment
            )),
            _ => passed(),
        };
        self.timed("wal", None, async { Ok(verdict) }).await
    }

    /// The checks of a server that runs: each is made, whatever the one before it found.
    pub(super) async fn check_running(&self, server: &Server) -> Result<Vec<DrillCheck>> {
        let mut checks = vec![self.timed("amcheck", None, self.amcheck(server)).await?];
        for sql in &self.request.sql {
            let shown: String = sql.chars().take(MAX_STATEMENT).collect();
            checks.push(self.timed("sql", Some(shown), self.statement(server, sql)).await?);
        }
        Ok(checks)
    }

    /// The check of a cluster whose server has ended; `clean` where it did so in order.
    pub(super) async fn check_stopped(&self, clean: bool) -> Result<DrillCheck> {
        self.timed("checksums", None, self.checksums(clean)).await
    }

    async fn timed(
        &self,
        name: &str,
        subject: Option<String>,
        check: impl Future<Output = Result<Verdict>>,
    ) -> Result<DrillCheck> {
        let begun = self.host.clock.monotonic();
        let (result, detail) = check.await?;
        let check = DrillCheck { name: name.to_owned(), subject, result, detail, ms: self.since(begun) };
        self.tell(&check);
        Ok(check)
    }

    fn tell(&self, check: &DrillCheck) {
        let text = words(check);
        match check.result {
            CheckResult::Passed => super::note(self.host, text),
            CheckResult::Failed | CheckResult::Skipped => self.host.warn(text),
        }
    }

    /// Tables and indexes against each other, in all databases that were restored.
    async fn amcheck(&self, server: &Server) -> Result<Verdict> {
        let program = self.program("pg_amcheck");
        if self.version < PgVersion::V14 {
            return Ok(skipped("PostgreSQL 13 has no pg_amcheck"));
        }
        if !program.is_file() {
            return Ok(skipped(format!("'{}' is not there", program.display())));
        }
        match self.offers_amcheck(server).await {
            Ok(true) => {}
            Ok(false) => {
                return Ok(skipped(
                    "the extension amcheck is not installed (it is in PostgreSQL's contrib package)",
                ));
            }
            Err(error) => return Ok(failed(with_causes(&error))),
        }
        let mut tool = command(&program);
        tool.args([
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--no-password",
            "--maintenance-db=template1",
        ]);
        tool.arg(format!("--jobs={}", self.request.restore.threads.max(1)));
        tool.arg("--host").arg(&self.request.directory).arg(format!("--port={PORT}"));
        tool.arg(format!("--username={}", self.request.user));
        for name in &self.left_out {
            tool.arg(format!("--exclude-database=\"{}\"", name.replace('"', "\"\"")));
        }
        let ended = Tool::start(tool, &self.request.directory.join("amcheck.out"))?
            .wait(self.request.timeout)
            .await?;
        Ok(match ended {
            Ended::By(status, _) if status.success() => passed(),
            Ended::By(status, text) if status.code() == Some(DAMAGE) => failed(flat(&text)),
            Ended::By(status, text) => failed(format!("pg_amcheck ended with {status}: {}", flat(&text))),
            Ended::Late => failed(self.late()),
        })
    }

    async fn offers_amcheck(&self, server: &Server) -> Result<bool, pgbr_pg::Error> {
        let session = server.session("template1", &self.request.user, self.request.timeout).await?;
        session.offers_extension("amcheck").await
    }

    /// One of the operator's statements.
    async fn statement(&self, server: &Server, sql: &str) -> Result<Verdict> {
        let request = self.request;
        let judged = async {
            let session = server.session(&request.database, &request.user, request.timeout).await?;
            session.judge(sql).await
        };
        Ok(match judged.await {
            Ok(judged) => match judged.refuted {
                None => passed(),
                Some(row) => failed(format!("row {row} of {} begins with false", judged.rows)),
            },
            Err(error) => failed(flat(&with_causes(&error))),
        })
    }

    /// The checksums of all pages, once nothing writes any more.
    async fn checksums(&self, clean: bool) -> Result<Verdict> {
        let program = self.program("pg_checksums");
        let (control, _) = pgbr_pg::read_control_file(self.pg_data.join(super::place::CONTROL))?;
        if control.data_checksum_version == 0 {
            return Ok(skipped("the cluster has no checksums"));
        }
        if !program.is_file() {
            return Ok(skipped(format!("'{}' is not there", program.display())));
        }
        if !clean {
            return Ok(failed("the server did not shut down in order, see its log"));
        }
        let mut tool = command(&program);
        tool.arg("--check").arg("-D").arg(&self.pg_data);
        let ended = Tool::start(tool, &self.request.directory.join("checksums.out"))?
            .wait(self.request.timeout)
            .await?;
        Ok(match ended {
            Ended::By(status, _) if status.success() => passed(),
            Ended::By(_, text) => failed(flat(&text)),
            Ended::Late => failed(self.late()),
        })
    }

    fn late(&self) -> String {
        format!("it did not end within {} s", self.request.timeout.as_secs())
    }

    fn program(&self, name: &str) -> std::path::PathBuf {
        Path::join(&self.bin, name)
    }
}

/// A check in one line.
pub(super) fn words(check: &DrillCheck) -> String {
    let subject = check.subject.as_ref().map(|sql| format!(" '{}'", flat(sql))).unwrap_or_default();
    let detail = check.detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
    let result = match check.result {
        CheckResult::Passed => "passed",
        CheckResult::Failed => "FAILED",
        CheckResult::Skipped => "skipped",
    };
    let took = super::seconds(check.ms);
    match check.result {
        CheckResult::Skipped => format!("check {}{subject} {result}{detail}", check.name),
        _ => format!("check {}{subject} {result} ({took}){detail}", check.name),
    }
}

/// Lines as one, bounded.
fn flat(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let one = lines.join(" ").replace(char::is_control, " ");
    one.chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_told_in_one_line() {
        let check = |result, subject: Option<&str>, detail: Option<&str>| DrillCheck {
            name: "sql".to_owned(),
            subject: subject.map(str::to_owned),
            result,
            detail: detail.map(str::to_owned),
            ms: 1234,
        };
        assert_eq!(
            words(&check(CheckResult::Passed, Some("select\n 1"), None)),
            "check sql 'select 1' passed (1.2s)"
        );
        assert_eq!(words(&check(CheckResult::Failed, None, Some("why"))), "check sql FAILED (1.2s): why");
        assert_eq!(words(&check(CheckResult::Skipped, None, Some("why"))), "check sql skipped: why");
        assert_eq!(flat(&"x\n".repeat(2000)).chars().count(), MAX_WORDS);
    }
}
