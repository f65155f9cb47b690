//! One WAL file into the archives of all repositories, at once: read and compressed once, sealed for each.

use std::path::PathBuf;

use futures::future::join_all;
use pgbr_codec::Compression;
use pgbr_manifest::StanzaName;
use pgbr_repo::{PushOutcome, WalContent};
use tokio::sync::OnceCell;

use super::file::WalFile;
use super::source::{Source, several};
use crate::error::Result;
use crate::host::Host;
use crate::place::RepoAccess;

/// A WAL file to archive.
#[derive(Debug, Clone)]
pub struct ArchivePushRequest {
    /// The repositories, by their numbers in the options.
    pub repos: Vec<(u16, RepoAccess)>,
    /// The stanza.
    pub stanza: StanzaName,
    /// The file; its last component is its name in the archive.
    pub file: PathBuf,
    /// How to compress.
    pub compression: Compression,
    /// Threads that compress.
    pub threads: usize,
    /// Whether the segment's header must be of the stanza's cluster.
    pub header_check: bool,
    /// A directory of this user alone for what stays the same of repositories on other hosts, which spares two requests a file; none: they
    /// are asked each time.
    pub facts: Option<PathBuf>,
}

/// Archives a WAL file in every repository, and tells what became of it in each. When this returns, it is durable in all of them;
/// repeating it is always safe.
///
/// A repository that fails keeps no other from getting the file.
///
/// # Errors
/// When the segment is of another cluster, when other content is archived under its name, or as a store failed; with several
/// repositories [`Error::Repos`](crate::Error::Repos) says which ones.
pub async fn archive_push(host: &Host, request: ArchivePushRequest) -> Result<Vec<(u16, PushOutcome)>> {
    let file = WalFile::open(&request.file, request.header_check)?;
    let content = OnceCell::new();
    let pushes = request.repos.iter().map(|(key, access)| {
        let source = Source::new(*key, access, &request.stanza, request.facts.as_ref());
        let (file, content, request) = (&file, &content, &request);
        async move { (*key, push_to(host, &source, file, content, request).await) }
    });
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (key, result) in join_all(pushes).await {
        match result {
            Ok(outcome) => done.push((key, outcome)),
            Err(error) => failed.push((key, error)),
        }
    }
    match failed.is_empty() {
        true => Ok(done),
        false => Err(several("archive-push command encountered error(s)", request.repos.len(), failed)),
    }
}

async fn push_to(
    host: &Host,
    source: &Source,
    file: &WalFile,
    content: &OnceCell<WalContent>,
    request: &ArchivePushRequest,
) -> Result<PushOutcome> {
    let mut opened = match file.tells_its_cluster() {
        true => source.open(host).await?,
        false => source.open_fresh(host).await?,
    };
    if opened.kept && file.check(&opened.place.stanza).is_err() {
        opened = source.open_fresh(host).await?;
    }
    file.check(&opened.place.stanza)?;
    let content = content.get_or_try_init(|| file.content(request.compression, request.threads)).await?;
    let pushed = file.push(host, &opened.place, content).await;
    if pushed.is_err() {
        source.forget();
    }
    pushed
}
