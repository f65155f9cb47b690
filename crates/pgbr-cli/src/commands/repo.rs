//! repo-ls, repo-get, repo-rm.

use pgbr::{
    Host, RepoEntries, RepoEntry, RepoGetRequest, RepoListing, RepoLsRequest, RepoPath, RepoRmRequest,
    repo_get, repo_ls, repo_rm,
};
use regex_lite::Regex;

use crate::exit::{CliError, EXIT_NOT_FOUND, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print, print_bytes};
use crate::settings::Settings;

/// How hard WAL is compressed that is asked for as a zstd stream.
const LEVEL: i32 = 3;

/// What stands for the path that is listed.
const DOT: &str = ".";

/// Lists a path.
pub(super) async fn ls(context: &Context) -> Outcome {
    let settings = &context.settings;
    let path = path(context, one_path(settings)?)?;
    let filter = settings.get_str("filter").map(filter).transpose()?;
    let full = full_path(settings, one_path(settings)?);
    let repo = request::repo_of(settings, settings.repo_key())?;
    let request = RepoLsRequest { repo, path, recurse: settings.get_bool("recurse") };
    let listing = repo_ls(request).await.map_err(|e| context.failure(&e))?;
    let json = settings.get_str("output") == Some("json");
    let descending = settings.get_str("sort") == Some("desc");
    print(&render(&listing, &Shown { json, descending, filter, full: &full }))?;
    Ok(0)
}

/// Writes a file to stdout.
pub(super) async fn get(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let [file] = settings.params() else {
        return Err(CliError::new(ErrorCode::ParamRequired, "source file required"));
    };
    let path = path(context, file)?;
    stanza_fits(settings, file)?;
    let repo = request::repo_of(settings, settings.repo_key())?;
    let request = RepoGetRequest { repo, path, raw: settings.get_bool("raw") };
    match repo_get(host, request).await.map_err(|e| context.failure(&e))? {
        Some(found) if found.as_zst => {
            let packed = zstd::encode_all(found.content.as_slice(), LEVEL).map_err(|error| {
                CliError::new(ErrorCode::FileRead, format!("unable to compress '{file}': {error}"))
            })?;
            print_bytes(&packed)?;
            Ok(0)
        }
        Some(found) => {
            print_bytes(&found.content)?;
            Ok(0)
        }
        None if settings.get_bool("ignore-missing") => Ok(EXIT_NOT_FOUND),
        None => {
            let message = format!("unable to open missing file '{}' for read", full_path(settings, file));
            Err(CliError::new(ErrorCode::FileMissing, message))
        }
    }
}

/// Removes a file or a path.
pub(super) async fn rm(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let path = path(context, one_path(settings)?)?;
    let (recurse, force) = (settings.get_bool("recurse"), settings.get_bool("force"));
    let repo = request::repo_of(settings, settings.repo_key())?;
    let removed = repo_rm(host, RepoRmRequest { repo, path, recurse, force }).await;
    let removed = removed.map_err(|e| context.failure(&e))?;
    context.log.info(&format!("objects removed: {}", removed.objects));
    Ok(0)
}

fn one_path(settings: &Settings) -> Result<&str, CliError> {
    match settings.params() {
        [] => Ok(""),
        [path] => Ok(path),
        _ => Err(CliError::new(ErrorCode::ParamInvalid, "only one path may be specified")),
    }
}

/// Where the repository lies, as the options have it.
fn base(settings: &Settings) -> &str {
    settings.indexed("repo", settings.repo_key(), "path").as_str().unwrap_or("/")
}

/// A path as it is without the repository's own, which it may begin with.
fn relative<'a>(settings: &Settings, text: &'a str) -> Result<&'a str, CliError> {
    let invalid = |message| Err(CliError::new(ErrorCode::ParamInvalid, message));
    if text.contains("//") {
        return invalid(format!("path '{text}' cannot contain //"));
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    if !text.starts_with('/') {
        return Ok(path);
    }
    let base = base(settings);
    match path.strip_prefix(if base == "/" { "" } else { base }) {
        Some("") => Ok(""),
        Some(inside) if inside.starts_with('/') => Ok(inside.strip_prefix('/').unwrap_or(inside)),
        _ => invalid(format!("absolute path '{path}' is not in base path '{base}'")),
    }
}

fn path(context: &Context, text: &str) -> Result<RepoPath, CliError> {
    RepoPath::parse(relative(&context.settings, text)?).map_err(|e| context.failure(&e))
}

/// A path as it is with the repository's own.
fn full_path(settings: &Settings, text: &str) -> String {
    match relative(settings, text) {
        Ok("") | Err(_) => base(settings).to_owned(),
        Ok(path) => format!("{}/{path}", base(settings).trim_end_matches('/')),
    }
}

/// A stanza that is named must be that of the path.
fn stanza_fits(settings: &Settings, file: &str) -> Result<(), CliError> {
    let parts: Vec<&str> = relative(settings, file)?.split('/').collect();
    match (parts.as_slice(), settings.stanza()) {
        (["archive" | "backup", of, _, ..], Some(stanza)) if *of != stanza => {
            let message = format!("stanza name '{stanza}' given in option doesn't match the given path");
            Err(CliError::new(ErrorCode::OptionInvalidValue, message))
        }
        _ => Ok(()),
    }
}

fn filter(text: &str) -> Result<Regex, CliError> {
    Regex::new(text).map_err(|error| {
        CliError::new(ErrorCode::Format, format!("'{text}' is not valid for 'filter' option: {error}"))
    })
}

/// How a listing is shown.
struct Shown<'a> {
    json: bool,
    descending: bool,
    filter: Option<Regex>,
    /// The whole path of what is listed.
    full: &'a str,
}

fn render(listing: &RepoListing, shown: &Shown<'_>) -> String {
    let matches = |name: &str| shown.filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let mut lines = Vec::new();
    match listing {
        RepoListing::File(entry) if matches(shown.full) => lines.push(line(DOT, entry, shown.json)),
        RepoListing::File(_) => {}
        RepoListing::Directory(entries) => {
            if shown.json && matches(DOT) {
                lines.push(line(DOT, &RepoEntry::Directory, true));
            }
            lines.extend(
                content(entries, shown)
                    .filter(|(name, _)| matches(name))
                    .map(|(name, entry)| line(&name, entry, shown.json)),
            );
        }
    }
    match shown.json {
        true => format!("{{{}}}\n", lines.join(",")),
        false => lines.into_iter().map(|line| line + "\n").collect(),
    }
}

/// The entries with their whole names: a directory before what is in it, or after it where the order is turned around.
fn content<'a>(
    entries: &'a RepoEntries,
    shown: &Shown<'_>,
) -> Box<dyn Iterator<Item = (String, &'a RepoEntry)> + 'a> {
    let named = entries.iter().map(|(parts, entry)| (parts.join("/"), entry));
    if shown.descending { Box::new(named.rev()) } else { Box::new(named) }
}

fn line(name: &str, entry: &RepoEntry, json: bool) -> String {
    if !json {
        return name.to_owned();
    }
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let value = match entry {
        RepoEntry::File { size, modified } => {
            format!("{{\"type\":\"file\",\"size\":{size},\"time\":{modified}}}")
        }
        RepoEntry::Directory => "{\"type\":\"path\"}".to_owned(),
        RepoEntry::Link { to } => format!("{{\"type\":\"link\",\"destination\":{}}}", text(to)),
    };
    format!("{}:{value}", text(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> RepoListing {
        let entry = |name: &str, entry| (name.split('/').map(str::to_owned).collect(), entry);
        RepoListing::Directory(RepoEntries::from([
            entry("aaa", RepoEntry::File { size: 8, modified: 1_578_671_569 }),
            entry("bbb", RepoEntry::Directory),
            entry("bbb/ccc", RepoEntry::File { size: 9, modified: 0 }),
            entry("link", RepoEntry::Link { to: "bbb".to_owned() }),
        ]))
    }

    fn shown(json: bool, descending: bool, pattern: Option<&str>) -> String {
        let filter = pattern.map(|pattern| filter(pattern).unwrap());
        render(&listing(), &Shown { json, descending, filter, full: "/repo/x" })
    }

    #[test]
    fn listings_read_like_pgbackrests() {
        assert_eq!(shown(false, false, None), "aaa\nbbb\nbbb/ccc\nlink\n");
        assert_eq!(shown(false, true, None), "link\nbbb/ccc\nbbb\naaa\n");
        assert_eq!(
            shown(true, false, None),
            "{\".\":{\"type\":\"path\"},\"aaa\":{\"type\":\"file\",\"size\":8,\"time\":1578671569},\
             \"bbb\":{\"type\":\"path\"},\"bbb/ccc\":{\"type\":\"file\",\"size\":9,\"time\":0},\
             \"link\":{\"type\":\"link\",\"destination\":\"bbb\"}}\n"
        );
        assert_eq!(shown(false, false, Some("^aaa$")), "aaa\n");
        assert_eq!(shown(true, false, Some("nothing")), "{}\n");
        assert_eq!(shown(true, false, Some("\\.")), "{\".\":{\"type\":\"path\"}}\n");
        assert_eq!(filter("(").unwrap_err().code.number(), 29);
        let file = RepoListing::File(RepoEntry::File { size: 8, modified: 5 });
        let render = |pattern: &str| {
            render(
                &file,
                &Shown { json: true, descending: false, filter: Regex::new(pattern).ok(), full: "/repo/aaa" },
            )
        };
        assert_eq!(render("/aaa$"), "{\".\":{\"type\":\"file\",\"size\":8,\"time\":5}}\n");
        assert_eq!(render("bbb$"), "{}\n");
    }
}
