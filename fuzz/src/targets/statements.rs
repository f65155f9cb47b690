//! Files of SQL: each statement stands in the text, and the next one behind it.

pub(crate) fn run(text: &str) {
    let mut rest = text;
    for statement in pgbr::split_statements(text) {
        assert!(!statement.is_empty() && statement.trim() == statement);
        let at = rest.find(&statement).expect("a statement is a part of the text");
        rest = &rest[at + statement.len()..];
    }
}
