//! What a command asked of a repository, for who pays by request.

use std::collections::BTreeMap;

use crate::run::Context;
use crate::size::format_size;

/// How many requests there were.
pub(super) fn count(counts: &BTreeMap<&'static str, u64>) -> u64 {
    ["puts", "gets", "lists", "deletes"].iter().filter_map(|kind| counts.get(kind)).sum()
}

/// One line of detail.
pub(super) fn tell(context: &Context, key: u16, counts: &BTreeMap<&'static str, u64>) {
    context.log.detail(&format!("repo{key}: {}", line(counts)));
}

fn line(counts: &BTreeMap<&'static str, u64>) -> String {
    let get = |kind| counts.get(kind).copied().unwrap_or(0);
    let (sent, got) = (format_size(get("bytes-written")), format_size(get("bytes-read")));
    let (puts, gets, lists, deletes) = (get("puts"), get("gets"), get("lists"), get("deletes"));
    format!("requests: {puts} puts, {gets} gets, {lists} lists, {deletes} deletes, {sent} out, {got} in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_kinds() {
        let counts = BTreeMap::from([
            ("bytes-read", 3 << 20),
            ("bytes-written", 1_181_116_006),
            ("deletes", 0),
            ("gets", 12),
            ("lists", 3),
            ("puts", 70),
        ]);
        assert_eq!(line(&counts), "requests: 70 puts, 12 gets, 3 lists, 0 deletes, 1.1GB out, 3MB in");
        assert_eq!(count(&counts), 85);
    }
}
