//! What an encrypted repository shows to somebody who has its objects and no passphrase: nothing but `repo.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use memchr::memmem::Finder;
use pgbr_testkit::own;

use crate::rig::{PASS, Rig};

const ROW: &str = "RowMarkerQuokka7431Zebra";
const TABLE: &str = "table_marker_wombat_2209";
const DATABASE: &str = "database_marker_tapir_5512";
const TABLESPACE: &str = "tablespace_marker_okapi_8870";
const FILE: &str = "file_marker_axolotl_6603.txt";
const CONTENT: &str = "ContentMarkerNarwhal1987Yak";
const ANNOTATION: &str = "annotation-marker-capybara-3318";

/// The beginning of a Zstandard frame.
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Words that must not be found, each with all the ways in which it could stand in an object.
struct Words(Vec<(String, Vec<Finder<'static>>)>);

impl Words {
    fn new(words: &[&str]) -> Self {
        let forms = |word: &str| {
            let finder = |form: Vec<u8>| Finder::new(&form).into_owned();
            let wide = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let plain = [
                word.into(),
                HEXLOWER.encode(word.as_bytes()).into(),
                HEXUPPER.encode(word.as_bytes()).into(),
                wide,
            ];
            // In base64 a word looks in one of three ways, but for its ends, which depend on what stands beside it.
            let base64 = (0..3).map(|shift| {
                let text = BASE64.encode(&[&b"xx"[..shift], word.as_bytes()].concat());
                text.as_bytes()[4..text.len() - 4].to_vec()
            });
            plain.into_iter().chain(base64).map(finder).collect()
        };
        Self(words.iter().map(|word| ((*word).to_owned(), forms(word))).collect())
    }

    /// The words that are in these bytes, or in what is compressed in them.
    fn found_in(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let mut found = self.plain_in(bytes);
        for at in memchr::memmem::find_iter(bytes, &ZSTD) {
            let Ok(frame) = zstd::stream::read::Decoder::with_buffer(&bytes[at..]) else { continue };
            let mut raw = Vec::new();
            // What comes before an error counts as well.
            frame.single_frame().take(16 << 20).read_to_end(&mut raw).ok();
            found.extend(self.plain_in(&raw));
        }
        found
    }

    fn plain_in(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let is_in =
            |(_, forms): &&(String, Vec<Finder<'_>>)| forms.iter().any(|form| form.find(bytes).is_some());
        self.0.iter().filter(is_in).map(|(word, _)| word.as_str()).collect()
    }
}

/// What kind of object a file of the repository is.
fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match text.split('/').rev().nth(1) {
        _ if name.starts_with("repo.json") => "repo.json",
        _ if name.starts_with("stanza.json") => "stanza",
        _ if name == "manifest" => "manifest",
        Some("pack") if name.contains("-i") => "index pack",
        Some("pack") => "data pack",
        Some("pin") => "pin",
        Some("lease") => "lease",
        _ if text.contains("/archive/") => "wal",
        _ => panic!("the repository has an object of no known kind: {text}"),
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

/// The words that are found, and in which kinds of objects; and all kinds that there are.
type Found = (BTreeMap<String, BTreeSet<&'static str>>, BTreeSet<&'static str>);

/// Looks into every object but `repo.json`.
fn search(dir: &Path, words: &Words) -> Found {
    let (mut found, mut kinds) = (BTreeMap::<_, BTreeSet<_>>::new(), BTreeSet::new());
    for path in files(dir) {
        // An object of a running backup may go, and a staging file gets its name: both are looked at under another name or not at all.
        let Ok(bytes) = fs::read(&path) else { continue };
        let kind = kind(&path);
        kinds.insert(kind);
        if kind != "repo.json" {
            for word in words.found_in(&bytes) {
                found.entry(word.to_owned()).or_default().insert(kind);
            }
        }
    }
    (found, kinds)
}

/// A cluster with marked words wherever an operator or a user can put some, backed up.
struct Marked {
    rig: Rig,
    label: String,
    /// What was found of pins and leases while the backup ran.
    meanwhile: Found,
}

fn backed_up(compress_type: &str, encrypted: bool) -> Marked {
    let rig = Rig::with(|pgbr| {
        pgbr.set("global", "compress-type", compress_type);
        if encrypted {
            pgbr.encrypt(1, "aes-256-gcm", PASS);
        }
    });
    let cluster = &rig.cluster;
    cluster.sql("postgres", &format!("create database {DATABASE}"));
    let location = cluster.scratch().dir(TABLESPACE);
    cluster.sql("postgres", &format!("create tablespace {TABLESPACE} location '{}'", location.display()));
    let table =
        format!("create table {TABLE} as select g, '{ROW}' || g as word from generate_series(1, 500) g");
    cluster.sql(DATABASE, &table);
    let file = cluster.data_dir().join(FILE);
    fs::write(&file, CONTENT.repeat(10)).expect("a file in the data directory can be written");
    own(&file);

    let done = AtomicBool::new(false);
    let words = words(&rig, "");
    let (pins, leases) = (rig.stanza_dir().join("pin"), rig.stanza_dir().join("lease"));
    let meanwhile = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut all = Found::default();
            while !done.load(Ordering::Relaxed) {
                for dir in [&pins, &leases] {
                    let (found, kinds) = search(dir, &words);
                    found.into_iter().for_each(|(word, kinds)| all.0.entry(word).or_default().extend(kinds));
                    all.1.extend(kinds);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            all
        });
        rig.pgbr.ok(["backup", "--type=full", &format!("--annotation=note={ANNOTATION}")]);
        done.store(true, Ordering::Relaxed);
        watch.join().expect("looking at files does not panic")
    });
    let label = rig.labels().pop().expect("a backup is listed");
    Marked { rig, label, meanwhile }
}

/// All words that nobody may find: the marked ones, the backup's label, the place of the cluster, the host.
fn words(rig: &Rig, label: &str) -> Words {
    let place = rig.cluster.data_dir().display().to_string();
    let segment = rig.archived_segment();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut all =
        vec![ROW, TABLE, DATABASE, TABLESPACE, FILE, CONTENT, ANNOTATION, place.as_str(), segment.as_str()];
    // Shorter ones come up by chance.
    all.extend([label, host.trim()].into_iter().filter(|word| word.len() > 11));
    Words::new(&all)
}

#[test]
fn an_encrypted_repository_shows_no_content_and_no_name() {
    for compress_type in ["none", "zst"] {
        let Marked { rig, label, meanwhile } = backed_up(compress_type, true);
        let (found, kinds) = search(&rig.pgbr.repo_dir(), &words(&rig, &label));
        assert_eq!(found, BTreeMap::new(), "compress-type={compress_type}");
        let expected = ["repo.json", "stanza", "manifest", "index pack", "data pack", "wal"];
        assert!(expected.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        assert_eq!(meanwhile, (BTreeMap::new(), BTreeSet::from(["pin", "lease"])), "while a backup runs");
    }
}

/// The same search finds all of it where nothing is encrypted.
#[test]
fn a_plain_repository_shows_all_of_it() {
    let Marked { rig, label, meanwhile } = backed_up("none", false);
    let (found, _) = search(&rig.pgbr.repo_dir(), &words(&rig, &label));
    let place = rig.cluster.data_dir().display().to_string();
    for (word, kinds) in [
        (ROW, &["data pack", "wal"][..]),
        (TABLE, &["data pack", "wal"]),
        (DATABASE, &["data pack", "manifest"]),
        (TABLESPACE, &["manifest"]),
        (FILE, &["index pack"]),
        (CONTENT, &["data pack"]),
        (ANNOTATION, &["manifest"]),
        (&label, &["manifest"]),
        (&place, &["manifest"]),
    ] {
        let there = found.get(word).cloned().unwrap_or_default();
        assert!(kinds.iter().all(|kind| there.contains(kind)), "{word} is to be in {kinds:?}: {there:?}");
    }
    assert_eq!(meanwhile.1, BTreeSet::from(["pin", "lease"]));
}

#[test]
fn a_word_is_found_in_every_form() {
    let words = Words::new(&[ROW]);
    let raw = format!("some {ROW} text");
    let wide: Vec<u8> = raw.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let compressed = zstd::bulk::compress(&raw.repeat(3).into_bytes(), 3).expect("text can be compressed");
    let base64 = |shift: usize| BASE64.encode(raw.as_bytes().get(shift..).unwrap_or_default()).into_bytes();
    let forms = [
        raw.clone().into_bytes(),
        wide,
        HEXLOWER.encode(raw.as_bytes()).into_bytes(),
        base64(0),
        base64(1),
        base64(2),
    ];
    for form in forms.into_iter().chain([[b"junk".to_vec(), compressed].concat()]) {
        assert_eq!(words.found_in(&form), BTreeSet::from([ROW]), "{}", String::from_utf8_lossy(&form));
    }
    assert_eq!(words.found_in(b"RowMarkerQuokka7431"), BTreeSet::new());
}
