//! Numbers that every report has.

use std::collections::BTreeMap;

use pgbr_repo::{Repo, Requests, Store};

/// How many requests were made of the repository, by kind, and the bytes they carried.
pub(crate) fn requests(repo: &Repo) -> BTreeMap<&'static str, u64> {
    requests_since(repo, Requests::default())
}

/// The same of those made since there had been so many.
pub(crate) fn requests_since(repo: &Repo, before: Requests) -> BTreeMap<&'static str, u64> {
    of_store(repo.store(), before)
}

/// The same of a store.
pub(crate) fn of_store(store: &Store, before: Requests) -> BTreeMap<&'static str, u64> {
    let requests = store.requests();
    BTreeMap::from([
        ("bytes-read", requests.bytes_in.saturating_sub(before.bytes_in)),
        ("bytes-written", requests.bytes_out.saturating_sub(before.bytes_out)),
        ("deletes", requests.deletes.saturating_sub(before.deletes)),
        ("gets", requests.gets.saturating_sub(before.gets)),
        ("lists", requests.lists.saturating_sub(before.lists)),
        ("puts", requests.puts.saturating_sub(before.puts)),
    ])
}
