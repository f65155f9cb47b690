//! Info files that were forged or come from old versions: whoever can write to a repository can put the right checksum on anything.

use pgbr_manifest::RelPath;
use pgbr_pgbackrest::{ArchiveInfo, BackupInfo, Compression, Error, Manifest, PageCheck, Place};
use proptest::prelude::*;

use crate::info_text::{reseal, reseal_latin1, seal, seal_as};

const FULL: &str = "20261122-120000F";
const INCR: &str = "20261122-120000F_20261123-120000I";
const SUM: &str = "0123456789abcdef0123456789abcdef01234567";

/// A manifest of an incremental backup, with everything in it that one can have.
fn manifest() -> String {
    seal(&format!(
        r#"[backup]
backup-archive-start="000000010000000000000004"
backup-archive-stop="000000010000000000000005"
backup-block-incr=true
backup-bundle=true
backup-bundle-raw=true
backup-label="{INCR}"
backup-lsn-start="0/4000028"
backup-lsn-stop="0/5000050"
backup-prior="{FULL}"
backup-reference="{FULL},{INCR}"
backup-timestamp-copy-start=1795435201
backup-timestamp-start=1795435200
backup-timestamp-stop=1795435300
backup-type="incr"

[backup:db]
db-catalog-version=202209061
db-control-version=1300
db-id=1
db-system-id=7300000000000000001
db-version="15"

[backup:option]
option-archive-check=true
option-compress=true
option-compress-type="zst"
option-online=true

[backup:target]
pg_data={{"path":"/pg/data","type":"path"}}
pg_data/conf.d={{"path":"../conf","type":"link"}}
pg_data/hba={{"file":"hba.conf","path":"/etc/pg","type":"link"}}
pg_tblspc/16400={{"path":"/space","tablespace-id":"16400","tablespace-name":"ts","type":"link"}}

[cipher]
cipher-pass="sub-passphrase"

[db]
postgres={{"db-id":5,"db-last-system-id":16383}}

[metadata]
annotation={{"who":"me"}}

[target:file]
pg_data/PG_VERSION={{"bni":1,"checksum":"{SUM}","rck":"{SUM}","reference":"{FULL}","repo-size":12,"size":3,"timestamp":1795000000}}
pg_data/base/1={{"bi":1,"bim":20,"bni":2,"bno":12,"checksum":"{SUM}","checksum-page":false,"checksum-page-error":[1,[3,5]],"mode":"0640","repo-size":900,"size":16384,"timestamp":1795000000,"user":false}}
pg_data/conf.d/x={{"checksum":"{SUM}","group":"other","size":9,"szo":8,"timestamp":1795000000}}
pg_data/hba={{"checksum":"{SUM}","checksum-page":true,"size":9,"timestamp":1795000000}}
pg_data/none={{"size":0,"timestamp":1795000000}}
pg_tblspc/16400/PG_15/5/a=b={{"checksum":"{SUM}","size":9,"timestamp":1795000000}}

[target:file:default]
group="postgres"
mode="0600"
user="postgres"

[target:link]
pg_data/conf.d={{"destination":"../conf"}}
pg_data/hba={{"destination":"/etc/pg/hba.conf"}}
pg_data/pg_tblspc/16400={{"destination":"/space"}}

[target:link:default]
group="postgres"
user="postgres"

[target:path]
pg_data={{}}
pg_data/base={{"mode":"0750"}}
pg_data/conf.d={{}}
pg_data/pg_tblspc={{}}
pg_tblspc={{}}
pg_tblspc/16400={{}}
pg_tblspc/16400/PG_15={{}}
pg_tblspc/16400/PG_15/5={{}}

[target:path:default]
group="postgres"
mode="0700"
user=false
"#
    ))
}

fn parse(text: &str) -> Result<Manifest, Error> {
    Manifest::parse("the manifest", text.as_bytes())
}

/// The manifest with some of its text replaced, under a right checksum.
fn with(from: &str, to: &str) -> String {
    let text = manifest();
    assert!(text.contains(from), "{from}");
    // The equals sign in a key would confuse the checksum of these tests.
    reseal(&text.replacen(from, to, 1).replacen("a=b=", "ab=", 1))
}

#[test]
fn everything_is_read_and_defaults_are_filled_in() {
    let text = reseal(&manifest().replace("a=b=", "ab="));
    let manifest = parse(&text).unwrap();
    assert_eq!(manifest.references.len(), 2);
    assert_eq!(manifest.cluster.system_id.as_u64(), 7_300_000_000_000_000_001);
    assert_eq!(manifest.options.compression, Compression::Zst);
    assert!(manifest.options.bundle_raw && manifest.options.archive_check && !manifest.options.delta);
    let file = |path: &str| manifest.file(&RelPath::new(path).unwrap()).unwrap();
    let version = file("pg_data/PG_VERSION");
    assert_eq!((version.stored_size, version.place), (12, Place::Bundle { id: 1, offset: 0 }));
    assert_eq!(manifest.owner(version).to_string(), FULL);
    let base = file("pg_data/base/1");
    assert_eq!(base.pages, Some(PageCheck::Bad(vec![(1, 1), (3, 5)])));
    assert_eq!(
        (base.mode.to_string().as_str(), base.user.name(), base.group.name()),
        ("0640", None, Some("postgres"))
    );
    let blocks = base.blocks.unwrap();
    assert_eq!((blocks.size, blocks.checksum_width, blocks.map_size), (8192, 6, 20));
    let linked = file("pg_data/conf.d/x");
    assert_eq!((linked.size_at_start, linked.stored_size, linked.place), (8, 9, Place::Own));
    assert_eq!((linked.user.name(), linked.group.name()), (Some("postgres"), Some("other")));
    assert_eq!(file("pg_data/hba").pages, Some(PageCheck::Good));
    assert!(
        format!("{manifest:?}").contains("Passphrase(..)")
            && !format!("{manifest:?}").contains("sub-passphrase")
    );
    assert!(manifest.files.is_sorted_by_key(|file| file.path.as_bytes()));
}

#[test]
fn a_key_may_hold_the_sign_that_divides_it_from_its_value() {
    let text =
        "[backrest]\nbackrest-format=5\nbackrest-version=\"2.59\"\n\n[db]\na=1=2=\"=3=\"\n\n[backrest]\n";
    // Of {"backrest":{...},"db":{"a=1=2":"=3="}}, by sha1sum.
    let json = r#"{"backrest":{"backrest-format":5,"backrest-version":"2.59"},"db":{"a=1=2":"=3="}}"#;
    let checksum = data_encoding::HEXLOWER.encode(&<sha1::Sha1 as sha1::Digest>::digest(json));
    let text = format!("{text}backrest-checksum=\"{checksum}\"\n");
    // The file is whole: what it lacks is found only then.
    let error = ArchiveInfo::parse("info", text.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("db-id is missing"), "{error}");
}

/// A cluster with the encoding SQL_ASCII takes any bytes as a name, and pgBackRest writes them as they are.
#[test]
fn names_in_the_database_need_not_be_utf8() {
    let text = manifest().replace("a=b=", "ab=").replace("\npostgres={", "\ncaf\u{e9}={");
    let text = text.replace("\"tablespace-name\":\"ts\"", "\"tablespace-name\":\"t\u{e9}\"");
    let manifest = Manifest::parse("the manifest", &reseal_latin1(&text)[..]).unwrap();
    assert_eq!(manifest.databases[0].name, "caf\u{fffd}");
    let names: Vec<_> = manifest.targets.iter().map(|target| format!("{:?}", target.kind)).collect();
    assert!(names.iter().any(|name| name.contains("t\u{fffd}")), "{names:?}");
    // What is no name of the database's has to be read as it is.
    let path = text.replace("\"/etc/pg/hba.conf\"", "\"/etc/caf\u{e9}\"");
    let error = Manifest::parse("the manifest", &reseal_latin1(&path)[..]).unwrap_err();
    assert!(error.to_string().contains("[target:link] pg_data/hba"), "{error}");
}

#[test]
fn manifests_of_old_versions_are_read() {
    // Before 2.42 there was no list of references, before that no compress-type; bundles, blocks and stored checksums came later as well.
    let mut text = manifest().replace("a=b=", "ab=");
    for line in ["backup-reference=", "option-compress-type=", "backup-bundle", "backup-block-incr"] {
        text = text.lines().filter(|l| !l.starts_with(line)).map(|l| format!("{l}\n")).collect();
    }
    let text = text
        .replace(&format!(r#""rck":"{SUM}","#), "")
        .replace(r#""bi":1,"bim":20,"bni":2,"bno":12,"#, "")
        .replace(r#""bni":1,"#, "");
    let manifest = parse(&reseal(&text)).unwrap();
    assert_eq!(manifest.references.iter().map(ToString::to_string).collect::<Vec<_>>(), [FULL, INCR]);
    assert_eq!(manifest.options.compression, Compression::Gz);
    assert!(manifest.files.iter().all(|file| file.stored_checksum.is_none() && file.place == Place::Own));
    let without = text.replace("option-compress=true", "option-compress=false");
    assert_eq!(parse(&reseal(&without)).unwrap().options.compression, Compression::None);
}

#[test]
fn a_block_size_alone_means_nothing() {
    let manifest = parse(&with(r#""bim":20,"#, "")).unwrap();
    assert!(manifest.files.iter().all(|file| file.blocks.is_none()));
}

#[test]
fn forged_manifests_are_refused() {
    let long = "x".repeat(300);
    let cases: &[(&str, &str, &str)] = &[
        // Paths that lead out, or are no paths.
        ("pg_data/none=", "pg_data/../../etc/passwd=", "wrong path"),
        ("pg_data/none=", "/etc/passwd=", "wrong path"),
        ("pg_data/none=", "pg_data//x=", "wrong path"),
        ("pg_data/none=", "pg_data/./x=", "wrong path"),
        ("pg_data/none=", &format!("pg_data/{long}="), "wrong path"),
        ("pg_data/none=", "etc/passwd=", "lies neither"),
        ("pg_data/none=", "pg_data=", "is a directory as well"),
        ("pg_data/none=", "pg_data/base=", "is a directory as well"),
        ("pg_data/none=", "pg_tblspc/x/none=", "lies neither"),
        ("pg_data/none=", "pg_tblspc/016400/none=", "lies neither"),
        ("pg_data/none=", "pg_tblspc/16400=", "is a directory as well"),
        ("pg_data/none=", "pg_data/unknown/none=", "lies in no directory"),
        ("pg_data/none=", "pg_data/PG_VERSION/none=", "lies in no directory"),
        ("pg_data/none=", "pg_tblspc/16401/none=", "lies in no directory"),
        ("pg_data/none=", "pg_tblspc/77=", "lies in no directory"),
        ("pg_tblspc={}", "pg_tblspc={}\npg_tblspc/77={}", "lies in no directory"),
        ("pg_data/none=", "pg_data/pg_tblspc/16400=", "is a link as well"),
        ("pg_data/none=", "pg_data/hba=", "is there twice"),
        ("pg_data/pg_tblspc={}", "pg_data/pg_tblspc/x/y={}", "lies in no directory"),
        ("pg_data/hba={\"dest", "pg_data/x/hba={\"dest", "lies in no directory"),
        ("\"destination\":\"/space\"", "\"destination\":\"\"", "not a path"),
        ("\"file\":\"hba.conf\"", "\"file\":\"../hba.conf\"", "not a name"),
        ("\"file\":\"hba.conf\"", "\"file\":\"..\"", "not a name"),
        ("\"tablespace-id\":\"16400\"", "\"tablespace-id\":\"16401\"", "tablespace-id"),
        ("\"type\":\"path\"", "\"type\":\"link\"", "not a target"),
        // Sizes and offsets.
        ("\"size\":0", "\"size\":-1", "form"),
        ("\"size\":0", "\"size\":18446744073709551616", "form"),
        ("\"size\":0", "\"size\":18446744073709551615", "no checksum"),
        ("\"size\":9,\"szo\":8", "\"size\":18446744073709551615,\"szo\":8", "no file has"),
        ("\"bno\":12", "\"bno\":18446744073709551615", "no file has"),
        ("\"repo-size\":900", "\"repo-size\":9223372036854775808", "no file has"),
        ("\"bni\":2", "\"bni\":0", "number 0"),
        ("\"bi\":1,", "", "no block size"),
        ("\"bi\":1,", "\"bi\":18446744073709551615,", "no block size"),
        ("\"bi\":1,", "\"bi\":100000,", "no block size"),
        ("\"bim\":20", "\"bim\":901", "larger than"),
        ("\"bim\":20", "\"bic\":17,\"bim\":20", "width"),
        ("\"bim\":20", "\"bic\":0,\"bim\":20", "width"),
        ("\"size\":0", "\"size\":1", "no checksum"),
        (
            "{\"size\":0",
            &format!("{{\"checksum\":\"{SUM}\",\"size\":0"),
            "another checksum than that of none",
        ),
        // Words.
        (&format!("\"rck\":\"{SUM}\""), "\"rck\":\"0123\"", "SHA-1"),
        (&format!("\"reference\":\"{FULL}\""), "\"reference\":\"../x\"", "not a label"),
        (&format!("\"reference\":\"{FULL}\""), "\"reference\":\"20261121-120000F\"", "not referred to"),
        (&format!("\"reference\":\"{FULL}\""), &format!("\"reference\":\"{INCR}\""), "not referred to"),
        (&format!("backup-reference=\"{FULL},"), "backup-reference=\"20261121-120000F,", "not of its set"),
        (&format!("backup-reference=\"{FULL},"), &format!("backup-reference=\"{FULL},{FULL},"), "twice"),
        (&format!("backup-reference=\"{FULL},"), "backup-reference=\"../../x,", "label"),
        (&format!("backup-label=\"{INCR}\""), "backup-label=\"../x\"", "label"),
        (&format!("backup-label=\"{INCR}\"\n"), "", "backup-label is missing"),
        (&format!("backup-label=\"{INCR}\""), "backup-label=5", "not text"),
        (&format!("backup-prior=\"{FULL}\"\n"), "", "do not fit its label"),
        ("backup-type=\"incr\"", "backup-type=\"diff\"", "do not fit its label"),
        ("backup-type=\"incr\"", "backup-type=\"other\"", "backup type"),
        ("\"mode\":\"0640\"", "\"mode\":\"640\"", "octal"),
        ("\"mode\":\"0640\"", "\"mode\":\"0980\"", "octal"),
        ("\"user\":false}", "\"user\":true}", "owner"),
        ("\"user\":false}", "\"user\":7}", "form"),
        ("[1,[3,5]]", "[1,[5,3]]", "page numbers"),
        ("[1,[3,5]]", "[-1]", "page numbers"),
        ("option-compress-type=\"zst\"", "option-compress-type=\"xz\"", "compression type"),
        ("db-version=\"15\"", "db-version=\"../15\"", "version"),
        ("db-id=1\n", "db-id=0\n", "db-id"),
        ("backup-timestamp-stop=1795435300", "backup-timestamp-stop=-5", "not a number"),
        ("000000010000000000000004", "../000000010000000000000004", "WAL segment name"),
        // Sections.
        (
            "[target:file:default]\ngroup=\"postgres\"\nmode=\"0600\"\n",
            "[target:file:default]\ngroup=\"postgres\"\n",
            "has no mode",
        ),
        ("[target:path:default]\ngroup=\"postgres\"\n", "[target:path:default]\n", "has no owner"),
        ("pg_data={\"path\":\"/pg/data\",\"type\":\"path\"}\n", "", "has no pg_data"),
        ("backup-bundle=true", "backup-bundle=true\nbackup-bundle=true", "twice"),
        ("postgres={\"db-id\":5,", "postgres={\"db-id\":4294967296,", "form"),
        ("\"db-id\":5,", "\"db-id\":5,\"db-id\":6,", "form"),
    ];
    for (from, to, message) in cases {
        let error = parse(&with(from, to)).expect_err(&format!("{from} -> {to}"));
        let text = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }) && text.contains(message), "{from} -> {to}: {text}");
        assert!(text.starts_with("'the manifest'"), "{text}");
    }
}

#[test]
fn what_is_not_an_info_file_is_refused() {
    let good = reseal(&manifest().replace("a=b=", "ab="));
    let end = good.rfind("\n[backrest]").unwrap();
    for (text, message) in [
        (good.replacen("0123", "0124", 1), "checksum"),
        (good[..end].to_owned(), "not whole"),
        (good.replace("backrest-format=5\n", ""), "backrest-format"),
        (good.replacen("pg_data/none=", "pg_data/none", 1), "not a key with a JSON value"),
        (good.replacen("pg_data/none={", "pg_data/none=[[", 1), "does not have its form"),
        (good.replacen("pg_data/none=", "pg_data/no\0ne=", 1), "NUL"),
        (format!(" {good}"), "begin"),
        (String::new(), "begin"),
        ("x".repeat(1 << 20), "begin"),
        (format!("[backrest]\n{}=1\n", "x".repeat(5 << 20)), "has more than"),
        (format!("[backrest]\n{}\n", "=[".repeat(1 << 20)), "not a key"),
        (many_facts(3), "bytes of others of its kind"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
    assert!(matches!(parse(&seal_as(4, "")), Err(Error::UnsupportedFormat { found: 4, .. })));
    let not_utf8 = [&b"[backrest]\nbackrest-format=5\nx=\"\xff\"\n"[..]].concat();
    assert!(Manifest::parse("m", &not_utf8[..]).is_err());
}

#[test]
fn forged_lists_are_refused() {
    let history =
        r#"1={"db-catalog-version":202209061,"db-control-version":1300,"db-system-id":7,"db-version":"15"}"#;
    let entry = r#"{"backrest-format":5,"backrest-version":"2.59","backup-archive-start":null,"backup-info-repo-size":1,"backup-info-repo-size-delta":1,"backup-info-size":1,"backup-info-size-delta":1,"backup-timestamp-start":1,"backup-timestamp-stop":2,"backup-type":"full","db-id":1,"option-online":false}"#;
    let db = "[db]\ndb-catalog-version=202209061\ndb-control-version=1300\ndb-id=1\ndb-system-id=7\ndb-version=\"15\"\n";
    let text = format!("[backup:current]\n{FULL}={entry}\n\n{db}\n[db:history]\n{history}\n");
    let info = BackupInfo::parse("info", seal(&text).as_bytes()).unwrap();
    assert_eq!((info.backups.len(), info.backups[0].wal.start, info.backups[0].page_errors), (1, None, None));
    for (from, to) in [
        (FULL, "../x"),
        (FULL, INCR),
        ("\"backup-type\":\"full\"", "\"backup-type\":\"full\",\"backup-prior\":\"20261121-120000F\""),
        ("\"backup-type\":\"full\"", "\"backup-type\":\"full\",\"backup-reference\":[\"20261121-120000F\"]"),
        ("\"db-id\":1,", "\"db-id\":2,"),
        ("\"backup-info-size\":1", "\"backup-info-size\":-1"),
        ("db-system-id=7\n", "db-system-id=8\n"),
        ("1={\"db-cat", "0={\"db-cat"),
        ("db-version=\"15\"", "db-version=\"..\""),
    ] {
        assert!(text.contains(from), "{from}");
        let error = BackupInfo::parse("info", seal(&text.replacen(from, to, 1)).as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{from} -> {to}: {error:?}");
    }

    let archive = "[db]\ndb-id=2\ndb-system-id=8\ndb-version=\"9.6\"\n\n[db:history]\n1={\"db-id\":7,\"db-version\":\"9.5\"}\n2={\"db-id\":8,\"db-version\":\"9.6\"}\n";
    let info = ArchiveInfo::parse("info", seal(archive).as_bytes()).unwrap();
    assert_eq!(info.current.archive_id().to_string(), "9.6-2");
    assert_eq!(info.history.len(), 2);
    for (from, to) in [
        ("db-id=2", "db-id=3"),
        ("\"9.6\"}", "\"../9.6\"}"),
        ("2={", "x={"),
        ("db-system-id=8", "db-system-id=\"8\""),
    ] {
        let error = ArchiveInfo::parse("info", seal(&archive.replacen(from, to, 1)).as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{from} -> {to}: {error:?}");
    }
}

/// Sections that nobody knows, of so many values of 3 MiB, which take twenty times as much when they are kept.
fn many_facts(count: usize) -> String {
    let value = format!("[{}0]", "0,".repeat(3 << 19));
    let lines: String = (0..count).map(|n| format!("key{n}={value}\n")).collect();
    seal(&format!("[unknown]\n{lines}"))
}

/// A manifest of so many files.
fn large(files: usize) -> String {
    let text = manifest();
    let (head, tail) = text.split_once("[target:file:default]").unwrap();
    let head = head.split_once("[target:file]").unwrap().0;
    let mut lines = String::from("[target:file]\n");
    for n in 0..files {
        lines.push_str(&format!(
            "pg_data/base/{n}={{\"bni\":{},\"bno\":{n},\"checksum\":\"{SUM}\",\"checksum-page\":true,\"repo-size\":4711,\"size\":8192,\"timestamp\":1795000000}}\n",
            n / 100 + 1,
        ));
    }
    reseal(&format!("{head}{lines}\n[target:file:default]{tail}"))
}

#[test]
fn a_large_manifest_is_read_in_reasonable_time() {
    let text = large(50_000);
    let start = std::time::Instant::now();
    assert_eq!(parse(&text).unwrap().files.len(), 50_000);
    let elapsed = start.elapsed();
    println!("{} bytes, 50000 files: {elapsed:?}", text.len());
    // Without optimisation and on a busy machine; what grows with the square of the files takes minutes.
    assert!(elapsed.as_secs() < 60, "{elapsed:?}");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(\\[[a-z:]{0,12}\\]\n|[a-z/=\"{}\\[\\]0-9]{0,30}\n){0,12}") {
        let text = format!("[backrest]\nbackrest-format=5\n{text}");
        parse(&text).ok();
        BackupInfo::parse("info", text.as_bytes()).ok();
        ArchiveInfo::parse("info", text.as_bytes()).ok();
    }

    #[test]
    fn keys_and_values_of_any_kind_are_under_the_checksum(
        values in proptest::collection::vec(("[a-z \"\\\\/é]{1,10}", any::<u32>()), 1..10),
        at in any::<proptest::sample::Index>(),
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let lines: String = values
            .iter()
            .filter(|(key, _)| seen.insert(key.clone()))
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        let text = seal(&format!("[values]\n{lines}"));
        // A whole file lacks only what such a file must have.
        let error = ArchiveInfo::parse("info", text.as_bytes()).unwrap_err();
        prop_assert!(error.to_string().contains("is missing"), "{}", error);
        // A digit that is changed is found, wherever it stands.
        let digits: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let at = digits[at.index(digits.len())];
        let digit = (text.as_bytes()[at] - b'0' + 1) % 10;
        let changed = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
        let error = ArchiveInfo::parse("info", changed.as_bytes()).unwrap_err();
        let found = ["checksum", "format", "form"].iter().any(|word| error.to_string().contains(word));
        prop_assert!(found, "{}", error);
    }
}
