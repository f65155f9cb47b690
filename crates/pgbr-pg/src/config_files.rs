//! Configuration files that lie outside of the data directory, with all that they include.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::reader::read_bounded;
use crate::session::ClusterFacts;

/// How deep files may include each other; the server's own bound (`CONF_FILE_MAX_DEPTH`).
const MAX_DEPTH: u32 = 10;
/// How many files are followed in all.
const MAX_FILES: usize = 1000;
/// The largest file that is searched for includes, in bytes.
const MAX_FILE_BYTES: usize = 4 << 20;

/// How a kind of file names others.
#[derive(Clone, Copy, PartialEq)]
enum Syntax {
    /// `include = 'file'` and the like.
    Settings,
    /// `include file` (16 and later) and `@file` among the words.
    Records,
    /// A list of names after `@`, which may hold `@file` again.
    Names,
}

/// The server's configuration files that a copy of the data directory lacks: `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf`
/// wherever they lie, and the files that these include, as far as they lie outside. Sorted, each once.
///
/// A file that cannot be read is listed, but not searched: copying it will tell why. One that does not exist is not listed.
pub fn external_config_files(facts: &ClusterFacts) -> Vec<PathBuf> {
    let starts = [
        (&facts.config_file, Syntax::Settings),
        (&facts.hba_file, Syntax::Records),
        (&facts.ident_file, Syntax::Records),
    ];
    let mut search = Search::default();
    for (file, syntax) in starts {
        if let Some(file) = file {
            search.file(file, syntax, 0);
        }
    }
    let inside = facts.data_directory.canonicalize().unwrap_or_else(|_| facts.data_directory.clone());
    let lies_outside = |file: &PathBuf| {
        let place = file.parent().and_then(|parent| parent.canonicalize().ok());
        !file.starts_with(&facts.data_directory) && !place.is_some_and(|place| place.starts_with(&inside))
    };
    search.found.into_iter().filter(lies_outside).collect()
}

#[derive(Default)]
struct Search {
    found: BTreeSet<PathBuf>,
}

impl Search {
    fn file(&mut self, path: &Path, syntax: Syntax, depth: u32) {
        if depth > MAX_DEPTH
            || self.found.len() >= MAX_FILES
            || !path.is_file()
            || !self.found.insert(path.to_owned())
        {
            return;
        }
        let Ok(bytes) = read_bounded(path, MAX_FILE_BYTES) else { return };
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        for line in String::from_utf8_lossy(&bytes).lines() {
            let words = words(line, syntax);
            match words.split_first() {
                Some((key, rest)) if syntax != Syntax::Names && is_include(key) => {
                    if let Some(name) = rest.first() {
                        self.include(key, &directory.join(name), syntax, depth);
                    }
                }
                _ if syntax == Syntax::Settings => {}
                _ => {
                    for name in
                        words.iter().filter_map(|word| word.strip_prefix('@')).filter(|name| !name.is_empty())
                    {
                        self.file(&directory.join(name), Syntax::Names, depth + 1);
                    }
                }
            }
        }
    }

    fn include(&mut self, key: &str, path: &Path, syntax: Syntax, depth: u32) {
        if !key.eq_ignore_ascii_case("include_dir") {
            return self.file(path, syntax, depth + 1);
        }
        let Ok(listing) = std::fs::read_dir(path) else { return };
        for entry in listing.flatten().take(MAX_FILES) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // What the server takes from such a directory (`GetConfFilesInDir`).
            if name.ends_with(".conf") && !name.starts_with('.') {
                self.file(&entry.path(), syntax, depth + 1);
            }
        }
    }
}

fn is_include(word: &str) -> bool {
    ["include", "include_if_exists", "include_dir"].iter().any(|key| word.eq_ignore_ascii_case(key))
}

/// The words of a line up to a comment, without quotes. A word ends at white space; in settings also at `=`, in records at `,`.
fn words(line: &str, syntax: Syntax) -> Vec<String> {
    let (quote, end) = if syntax == Syntax::Settings { ('\'', '=') } else { ('"', ',') };
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        if c == quote {
            quoted = !quoted;
        } else if quoted || !(c == '#' || c == end || c.is_ascii_whitespace()) {
            word.push(c);
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c == '#' && !quoted {
            break;
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Reads a line by each syntax: words are parts of it, but for quotes.
#[cfg(fuzzing)]
pub(crate) fn read(line: &str) {
    for syntax in [Syntax::Settings, Syntax::Records, Syntax::Names] {
        let words = words(line, syntax);
        assert!(words.iter().all(|word| !word.is_empty()));
        assert!(words.iter().map(String::len).sum::<usize>() <= line.len());
        words.first().map(|word| is_include(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directory: &Path) -> Vec<String> {
        let mut search = Search::default();
        search.file(&directory.join("postgresql.conf"), Syntax::Settings, 0);
        search.file(&directory.join("pg_hba.conf"), Syntax::Records, 0);
        let name = |path: &PathBuf| path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
        search.found.iter().map(name).collect()
    }

    #[test]
    fn includes_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir(directory.path().join("conf.d")).unwrap();
        write(
            "postgresql.conf",
            "port = 1 # include 'no.conf'\ninclude 'a.conf'\nINCLUDE_IF_EXISTS='missing.conf'\ninclude_dir = 'conf.d' # yes\n#include 'no.conf'\n",
        );
        write("a.conf", "include='postgresql.conf'\ninclude 'b c.conf'");
        write("b c.conf", "");
        write("no.conf", "");
        write("conf.d/1.conf", "include '../d.conf'");
        write("conf.d/.hidden.conf", "");
        write("conf.d/other.txt", "");
        write("d.conf", "");
        write("pg_hba.conf", "local @dbs,x \"@users\" peer # @no.conf\ninclude hba2.conf\n");
        write("dbs", "one\n@more\n");
        write("users", "");
        write("more", "");
        write("hba2.conf", "");
        let wanted = [
            "a.conf",
            "b c.conf",
            "conf.d/../d.conf",
            "conf.d/1.conf",
            "dbs",
            "hba2.conf",
            "more",
            "pg_hba.conf",
            "postgresql.conf",
            "users",
        ];
        assert_eq!(found(directory.path()), wanted);
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("postgresql.conf"), "include 'f1'").unwrap();
        for n in 1..30 {
            std::fs::write(directory.path().join(format!("f{n}")), format!("include 'f{}'", n + 1)).unwrap();
        }
        assert_eq!(found(directory.path()).len(), 11);
    }
}
