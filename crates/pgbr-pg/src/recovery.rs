//! What a restored server is told: recovery settings in `postgresql.auto.conf` and the signal file. Pure.

use pgbr_manifest::Lsn;

use crate::error::{Error, Result};

/// Settings of an earlier recovery, which would decide this one as well.
const STALE: [&str; 8] = [
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
];

/// Where the recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the types that pgBackRest's restore has")]
pub enum RecoveryGoal {
    /// At the end of the archive, then promote.
    Default,
    /// As soon as the backup is consistent, on the backup's own timeline.
    Immediate,
    /// At the last commit before a time, as PostgreSQL reads it; give its zone.
    Time(String),
    /// At the commit of a transaction.
    Xid(String),
    /// At a restore point.
    Name(String),
    /// At a position.
    Lsn(Lsn),
    /// Never: follow as a standby.
    Standby,
    /// As the settings in the backup say: nothing is written.
    Preserve,
    /// With the WAL that lies in `pg_wal` alone.
    None,
}

/// What happens when the goal is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "PostgreSQL has these three")]
pub enum RecoveryAction {
    /// Wait, readable, for somebody to decide. PostgreSQL's own default, so no setting is written.
    #[default]
    Pause,
    /// Go into production on a new timeline.
    Promote,
    /// Stop the server.
    Shutdown,
}

/// A file that tells the server what to do at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "PostgreSQL has these two")]
pub enum SignalFile {
    /// `recovery.signal`: recover from the archive, then promote.
    Recovery,
    /// `standby.signal`: follow.
    Standby,
}

impl SignalFile {
    /// Both, so that a stale one can be removed.
    pub const ALL: [Self; 2] = [Self::Recovery, Self::Standby];

    /// Its name in the data directory.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Recovery => "recovery.signal",
            Self::Standby => "standby.signal",
        }
    }
}

/// Everything that decides about the settings of a recovery.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it is filled in by callers, field by field")]
pub struct RecoveryPlan {
    /// Where it ends.
    pub goal: RecoveryGoal,
    /// Whether to stop just before the goal (time, xid, LSN).
    pub exclusive: bool,
    /// What happens then.
    pub action: RecoveryAction,
    /// The timeline: `latest`, `current` or a number. Without it PostgreSQL takes the latest, and `Immediate` the backup's own.
    pub timeline: Option<String>,
    /// The command that gets WAL; needed by every goal but `Preserve` and `None`.
    pub restore_command: String,
    /// Whether to write `archive_mode = off`.
    pub archive_off: bool,
    /// More settings; one of these wins over what would be written otherwise. `-` in a name counts as `_`.
    pub options: Vec<(String, String)>,
    /// Whether the server is older than version 12: it takes these settings from `recovery.conf`, see [`RecoveryPlan::recovery_conf`].
    pub before_12: bool,
    /// Whether the WAL that the backup needs lies in its `pg_wal`: with `None` that is all there is to recover, and no archive is asked.
    pub wal_inside: bool,
    /// The program in the comments, as `pgbr` or `pgBackRest`.
    pub program: String,
    /// The local time in the comments, as `2026-11-22 13:27:29`.
    pub when: String,
}

impl RecoveryPlan {
    /// The settings, in the order in which they are written.
    ///
    /// # Errors
    /// When a name is no setting's name, when a value has a line end, when a setting no longer exists.
    pub fn settings(&self) -> Result<Vec<(String, String)>> {
        if self.before_12 && self.archive_off {
            let (name, reason) = ("archive_mode".to_owned(), "before version 12 no recovery can set it");
            return Err(Error::RecoverySetting { name, reason });
        }
        if matches!(self.goal, RecoveryGoal::Preserve | RecoveryGoal::None) {
            return Ok(self.archive().into_iter().collect());
        }
        let mut settings = Vec::new();
        for (name, value) in &self.options {
            settings.push((self.checked_name(name)?, value.clone()));
        }
        let mut add = |name: &str, value: String| {
            if !settings.iter().any(|(known, _)| known == name) {
                settings.push((name.to_owned(), value));
            }
        };
        add("restore_command", self.restore_command.clone());
        if self.before_12 && self.goal == RecoveryGoal::Standby {
            add("standby_mode", "on".to_owned());
        }
        if let Some((name, value)) = self.target() {
            add(name, value);
            let has_edge =
                matches!(self.goal, RecoveryGoal::Time(_) | RecoveryGoal::Xid(_) | RecoveryGoal::Lsn(_));
            if self.exclusive && has_edge {
                add("recovery_target_inclusive", "false".to_owned());
            }
            match self.action {
                RecoveryAction::Pause => {}
                RecoveryAction::Promote => add("recovery_target_action", "promote".to_owned()),
                RecoveryAction::Shutdown => add("recovery_target_action", "shutdown".to_owned()),
            }
        }
        match (&self.timeline, &self.goal) {
            // The latest timeline may have left the backup's before the backup ended.
            (_, RecoveryGoal::Immediate) if self.before_12 => {}
            (_, RecoveryGoal::Immediate) => add("recovery_target_timeline", "current".to_owned()),
            // It is what they do without the setting; one that is not a number they take for `latest` (`readRecoveryCommandFile` of xlog.c).
            (Some(timeline), _) if self.before_12 && timeline == "current" => {}
            (Some(timeline), _) => add("recovery_target_timeline", timeline.clone()),
            (None, _) => {}
        }
        if let Some((name, value)) = self.archive() {
            add(&name, value);
        }
        for (name, value) in &settings {
            if value.contains(['\n', '\r', '\0']) {
                return Err(Error::RecoverySetting { name: name.clone(), reason: "a value is one line" });
            }
        }
        Ok(settings)
    }

    /// `recovery.conf`, by which servers before version 12 recover; none where there is to be none, or that of the backup is kept.
    ///
    /// # Errors
    /// As [`RecoveryPlan::settings`].
    pub fn recovery_conf(&self) -> Result<Option<Vec<u8>>> {
        let settings = self.settings()?;
        if matches!(self.goal, RecoveryGoal::Preserve | RecoveryGoal::None) || !self.before_12 {
            return Ok(None);
        }
        Ok(Some(self.generated(&settings).into_bytes()))
    }

    /// Which signal file the server needs; the other one must not exist. `None`: leave both as they are in the backup.
    pub const fn signal_file(&self) -> Option<SignalFile> {
        match self.goal {
            RecoveryGoal::Preserve => None,
            _ if self.before_12 => None,
            // With the file the server insists on a command that gets WAL.
            RecoveryGoal::None if self.wal_inside => None,
            RecoveryGoal::Standby => Some(SignalFile::Standby),
            _ => Some(SignalFile::Recovery),
        }
    }

    /// `postgresql.auto.conf` with what `current` holds: settings of an earlier recovery become comments, the new ones follow.
    ///
    /// # Errors
    /// As [`RecoveryPlan::settings`].
    pub fn auto_conf(&self, current: &[u8]) -> Result<Vec<u8>> {
        let settings = self.settings()?;
        if self.before_12 || (self.goal == RecoveryGoal::Preserve && settings.is_empty()) {
            return Ok(current.to_owned());
        }
        let mut text = Vec::with_capacity(current.len() + 512);
        for line in current.split_inclusive(|byte| *byte == b'\n') {
            if self.goal != RecoveryGoal::Preserve && is_stale(line) {
                text.extend(format!("# Removed by {} restore on {} # ", self.program, self.when).bytes());
            }
            text.extend(line);
        }
        if settings.is_empty() {
            return Ok(text);
        }
        if !text.is_empty() {
            // A last line without its end must not swallow what follows.
            text.extend(if text.ends_with(b"\n") { "\n" } else { "\n\n" }.bytes());
        }
        text.extend(self.generated(&settings).bytes());
        Ok(text)
    }

    fn generated(&self, settings: &[(String, String)]) -> String {
        let mut text =
            format!("# Recovery settings generated by {} restore on {}\n", self.program, self.when);
        for (name, value) in settings {
            text.push_str(&format!("{name} = {}\n", quoted(value)));
        }
        text
    }

    /// A setting's name, as it is written.
    fn checked_name(&self, name: &str) -> Result<String> {
        let bad = |reason| Err(Error::RecoverySetting { name: name.chars().take(100).collect(), reason });
        let clean = name.replace('-', "_");
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if clean.len() > 128 || !clean.split('.').all(word) {
            return bad("it is not the name of a setting");
        }
        if clean == "standby_mode" && !self.before_12 {
            return bad("it no longer exists; restore as a standby instead");
        }
        Ok(clean)
    }

    fn target(&self) -> Option<(&'static str, String)> {
        Some(match &self.goal {
            RecoveryGoal::Immediate => ("recovery_target", "immediate".to_owned()),
            RecoveryGoal::Time(time) => ("recovery_target_time", time.clone()),
            RecoveryGoal::Xid(xid) => ("recovery_target_xid", xid.clone()),
            RecoveryGoal::Name(name) => ("recovery_target_name", name.clone()),
            RecoveryGoal::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RecoveryGoal::Default | RecoveryGoal::Standby | RecoveryGoal::Preserve | RecoveryGoal::None => {
                return None;
            }
        })
    }

    fn archive(&self) -> Option<(String, String)> {
        self.archive_off.then(|| ("archive_mode".to_owned(), "off".to_owned()))
    }
}

/// A value in quotes; the server undoes both escapes (guc-file.l).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Whether a line sets one of the settings of an earlier recovery. Names are not case sensitive, and `=` may be left out.
fn is_stale(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| !(b.is_ascii_alphanumeric() || *b == b'_')).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let sets = rest.trim_ascii_start().starts_with(b"=") || rest.first().is_some_and(u8::is_ascii_whitespace);
    sets && STALE.iter().any(|stale| name.eq_ignore_ascii_case(stale.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# Recovery settings generated by pgBackRest restore on LABEL\n";
    const REMOVED: &str = "# Removed by pgBackRest restore on LABEL # ";

    fn plan(goal: RecoveryGoal) -> RecoveryPlan {
        RecoveryPlan {
            goal,
            exclusive: false,
            action: RecoveryAction::Pause,
            timeline: None,
            restore_command: "my_restore_command".to_owned(),
            archive_off: false,
            options: Vec::new(),
            before_12: false,
            wal_inside: false,
            program: "pgBackRest".to_owned(),
            when: "LABEL".to_owned(),
        }
    }

    fn conf(plan: &RecoveryPlan, current: &str) -> String {
        String::from_utf8(plan.auto_conf(current.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn settings_follow_the_goal() {
        let command = "restore_command = 'my_restore_command'\n";
        for (goal, wanted) in [
            (RecoveryGoal::Default, ""),
            (
                RecoveryGoal::Immediate,
                "recovery_target = 'immediate'\nrecovery_target_timeline = 'current'\n",
            ),
            (RecoveryGoal::Time("T".to_owned()), "recovery_target_time = 'T'\n"),
            (RecoveryGoal::Xid("7".to_owned()), "recovery_target_xid = '7'\n"),
            (RecoveryGoal::Name("it's".to_owned()), "recovery_target_name = 'it''s'\n"),
            (RecoveryGoal::Lsn("5218/5E35BBA8".parse().unwrap()), "recovery_target_lsn = '5218/5E35BBA8'\n"),
            (RecoveryGoal::Standby, ""),
        ] {
            assert_eq!(conf(&plan(goal), ""), format!("{HEADER}{command}{wanted}"));
        }
        assert_eq!(conf(&plan(RecoveryGoal::None), ""), "");
    }

    #[test]
    fn edges_actions_and_timelines() {
        let time = RecoveryPlan {
            exclusive: true,
            action: RecoveryAction::Promote,
            timeline: Some("3".to_owned()),
            archive_off: true,
            ..plan(RecoveryGoal::Time("T".to_owned()))
        };
        assert_eq!(
            conf(&time, ""),
            format!(
                "{HEADER}restore_command = 'my_restore_command'\nrecovery_target_time = 'T'\n\
                 recovery_target_inclusive = 'false'\nrecovery_target_action = 'promote'\n\
                 recovery_target_timeline = '3'\narchive_mode = 'off'\n"
            )
        );
        let name = RecoveryPlan { exclusive: true, ..plan(RecoveryGoal::Name("N".to_owned())) };
        assert!(!conf(&name, "").contains("inclusive"));
        let end = RecoveryPlan { action: RecoveryAction::Promote, ..plan(RecoveryGoal::Default) };
        assert!(!conf(&end, "").contains("action"));
    }

    #[test]
    fn stale_settings_become_comments() {
        let current = "# DO NOT MODIFY\nrecovery_target_name\t='name'\n\t Recovery_Target_Inclusive false\nrecovery_targets = 1\nport = 1";
        assert_eq!(
            conf(&plan(RecoveryGoal::Standby), current),
            format!(
                "# DO NOT MODIFY\n{REMOVED}recovery_target_name\t='name'\n{REMOVED}\t Recovery_Target_Inclusive false\n\
                 recovery_targets = 1\nport = 1\n\n{HEADER}restore_command = 'my_restore_command'\n"
            )
        );
        assert_eq!(
            conf(&plan(RecoveryGoal::None), "recovery_target='x'\n"),
            format!("{REMOVED}recovery_target='x'\n")
        );
        assert_eq!(conf(&plan(RecoveryGoal::Preserve), "recovery_target='x'\n"), "recovery_target='x'\n");
    }

    #[test]
    fn options_win_and_are_checked() {
        let with = |name: &str, value: &str| RecoveryPlan {
            options: vec![(name.to_owned(), value.to_owned())],
            ..plan(RecoveryGoal::Default)
        };
        assert_eq!(
            conf(&with("restore-command", "a\\b"), ""),
            format!("{HEADER}restore_command = 'a\\\\b'\n")
        );
        assert!(conf(&with("ext.setting", "1"), "").contains("ext.setting = '1'\n"));
        for (name, value) in
            [("standby-mode", "on"), ("a b", "1"), ("", "1"), ("x\n", "1"), ("x", "a\nb"), ("1x", "1")]
        {
            assert!(with(name, value).auto_conf(b"").is_err(), "{name:?}");
        }
    }

    #[test]
    fn servers_before_12_have_a_file_of_their_own() {
        let old = |goal| RecoveryPlan { before_12: true, ..plan(goal) };
        let conf =
            |plan: &RecoveryPlan| plan.recovery_conf().unwrap().map(|text| String::from_utf8(text).unwrap());
        let command = "restore_command = 'my_restore_command'\n";
        let standby = RecoveryPlan { timeline: Some("latest".to_owned()), ..old(RecoveryGoal::Standby) };
        assert_eq!(
            conf(&standby).unwrap(),
            format!("{HEADER}{command}standby_mode = 'on'\nrecovery_target_timeline = 'latest'\n")
        );
        // What later versions have to be told is the rule there, and not what the word would do.
        let current = RecoveryPlan { timeline: Some("current".to_owned()), ..old(RecoveryGoal::Default) };
        assert_eq!(conf(&current).unwrap(), format!("{HEADER}{command}"));
        assert_eq!(
            conf(&old(RecoveryGoal::Immediate)).unwrap(),
            format!("{HEADER}{command}recovery_target = 'immediate'\n")
        );
        for goal in [RecoveryGoal::None, RecoveryGoal::Preserve] {
            assert_eq!(conf(&old(goal)), None);
        }
        assert_eq!(plan(RecoveryGoal::Default).recovery_conf().unwrap(), None);
        let text = "recovery_target = 'x'\n";
        assert_eq!(old(RecoveryGoal::Default).auto_conf(text.as_bytes()).unwrap(), text.as_bytes());
        assert_eq!(old(RecoveryGoal::Standby).signal_file(), None);
        assert!(RecoveryPlan { archive_off: true, ..old(RecoveryGoal::Default) }.settings().is_err());
        let asked = RecoveryPlan {
            options: vec![("standby-mode".to_owned(), "off".to_owned())],
            ..old(RecoveryGoal::Default)
        };
        assert!(conf(&asked).unwrap().contains("standby_mode = 'off'\n"));
    }

    #[test]
    fn signal_files() {
        assert_eq!(plan(RecoveryGoal::Default).signal_file(), Some(SignalFile::Recovery));
        assert_eq!(plan(RecoveryGoal::None).signal_file(), Some(SignalFile::Recovery));
        let inside = |goal| RecoveryPlan { wal_inside: true, ..plan(goal) };
        assert_eq!(inside(RecoveryGoal::None).signal_file(), None);
        assert_eq!(inside(RecoveryGoal::Immediate).signal_file(), Some(SignalFile::Recovery));
        assert_eq!(
            plan(RecoveryGoal::Standby).signal_file().map(SignalFile::file_name),
            Some("standby.signal")
        );
        assert_eq!(plan(RecoveryGoal::Preserve).signal_file(), None);
    }
}
