//! postgresql.auto.conf, behind a value and a NUL: rewritten for every goal, and once more for the same.

use pgbr_manifest::Lsn;
use pgbr_pg::{RecoveryAction, RecoveryGoal, RecoveryPlan};

fn plan(goal: RecoveryGoal, text: &str) -> RecoveryPlan {
    RecoveryPlan {
        goal,
        exclusive: true,
        action: RecoveryAction::Promote,
        timeline: Some("latest".to_owned()),
        restore_command: text.to_owned(),
        archive_off: true,
        options: vec![("recovery-end-command".to_owned(), text.to_owned())],
        before_12: false,
        wal_inside: false,
        program: "pgbr".to_owned(),
        when: "2026-11-22 13:27:29".to_owned(),
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let (text, current) = (text.as_ref(), parts.next().unwrap_or_default());
    for goal in [
        RecoveryGoal::Default,
        RecoveryGoal::Time(text.to_owned()),
        RecoveryGoal::Name(text.to_owned()),
        RecoveryGoal::Lsn(Lsn::new(1)),
        RecoveryGoal::Standby,
        RecoveryGoal::None,
        RecoveryGoal::Preserve,
    ] {
        let plan = plan(goal, text);
        if let Ok(conf) = plan.auto_conf(current) {
            plan.auto_conf(&conf).expect("what was written is rewritten");
        }
    }
}
