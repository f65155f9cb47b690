//! Numbers that every report has.

use std::collections::BTreeMap;

use pgbr_repo::Repo;

/// How many requests were made of the repository, by kind, and the bytes they carried.
pub(crate) fn requests(repo: &Repo) -> BTreeMap<&'static str, u64> {
    let requests = repo.store().requests();
    BTreeMap::from([
        ("bytes-read", requests.bytes_in),
        ("bytes-written", requests.bytes_out),
        ("deletes", requests.deletes),
        ("gets", requests.gets),
        ("lists", requests.lists),
        ("puts", requests.puts),
    ])
}
