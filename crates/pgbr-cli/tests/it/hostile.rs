//! Repositories whose every tag is right and whose content lies: bounded memory, a clear error, and nothing is written outside of what the
//! restore was given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pgbr_codec::{Codec, FrameKind, ObjectKind};
use pgbr_manifest::index::{LeafWriter, NodeKind, NodePlace, Record, Root};
use pgbr_manifest::manifest::{Body, Link, Parent, Summary, Tablespace};
use pgbr_manifest::{Digest, GRAIN, RelPath};

use crate::forge::{
    Content, Forge, LABEL, Parts, SEGMENT, VERSION_DIRECTORY, assert_no_crash, assert_refused, digest_of,
    end_record, exists, file_record, key, label, manifest, rel, rows_of, zst,
};

const RESTORE: [&str; 2] = ["restore", "--type=none"];

/// A backup of some content, with a changed manifest.
fn forged(content: Content, change: impl FnOnce(&mut Summary, &mut Body)) -> Forge {
    let forge = Forge::new();
    forge.commit(forge.store(content), change);
    forge
}

/// A restore of this, without recovery unless it is asked for, which must fail with these words, and write nothing outside.
#[track_caller]
fn restore_fails(what: &str, forge: &Forge, args: &[&str], words: &str) {
    let recovers = args.iter().any(|arg| arg.starts_with("--type="));
    let finished = forge.run(&[if recovers { &RESTORE[..1] } else { &RESTORE }, args].concat());
    assert_refused(what, &finished, words);
    assert!(!forge.target().join("global/pg_control").exists(), "{what}: a server would start");
    forge.assert_outside_is_untouched();
}

/// Unsigned LEB128.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7F).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// A record 2 with this path, whatever it is.
fn raw_directory(path: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0];
    varint(&mut bytes, path.len() as u64);
    bytes.extend(path);
    bytes.push(0);
    bytes
}

/// A backup whose index is one leaf of these bytes.
fn with_leaf(leaf: &[u8]) -> Forge {
    let forge = Forge::new();
    let mut index = forge.index();
    let place = index.node(NodeKind::Leaf, leaf);
    let parts = forge.close(index, Some(Root { level: 0, place }), None, 0, (1 << 40, Digest([0; 32])));
    forge.commit(parts, |_, _| {});
    forge
}

fn leaf(records: &[Record]) -> Vec<u8> {
    let mut writer = LeafWriter::default();
    records.iter().for_each(|record| writer.push(record));
    writer.take()
}

#[test]
fn what_does_not_lie_is_restored_and_verified() {
    let content = Content::cluster().with(|c| {
        c.zeros("pg_data/hole", 1 << 20);
        c.mode_file("pg_data/tool", b"#!/bin/sh\n", 0o6755);
    });
    let forge = forged(content, |_, _| {});
    for command in [&["verify"][..], &["info"], &["expire", "--repo1-retention-full=1"], &RESTORE] {
        let finished = forge.run(command);
        assert!(finished.success(), "{command:?}: {finished:#?}");
    }
    let restored = forge.target();
    assert_eq!(fs::read(restored.join("PG_VERSION")).expect("it was restored"), b"15\n");
    assert_eq!(fs::metadata(restored.join("hole")).expect("it was restored").len(), 1 << 20);
    // A backup is no way to get a program that runs as somebody else.
    let mode = fs::metadata(restored.join("tool")).expect("it was restored").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    forge.assert_outside_is_untouched();
}

#[test]
fn paths_that_are_none_are_refused() {
    let long = ["pg_data/".to_owned(), "x".repeat(256)].concat();
    let deep = ["pg_data".to_owned(), "/x".repeat(2100)].concat();
    let bad = ["pg_data/../../outside/x", "/etc/x", "", "pg_data//x", "pg_data/a\0b", "pg_data/./x", &long];
    for (path, words) in bad.map(|path| (path, "path")).into_iter().chain([(&*deep, "a count is too large")])
    {
        let forge = with_leaf(&[raw_directory(b"pg_data"), raw_directory(path.as_bytes())].concat());
        restore_fails(path, &forge, &[], words);
        assert_refused(path, &forge.run(&["verify"]), words);
    }
}

#[test]
fn lists_that_contradict_themselves_are_refused() {
    let directory = |path: &str| Record::Directory { path: rel(path), meta: Default::default() };
    let whole = |path: &str| [file_record(path, 0, 0o600), end_record(0, digest_of(0, [].into_iter()))];
    let top = directory("pg_data");
    for (what, records, words) in [
        ("twice", vec![top.clone(), directory("pg_data/a"), directory("pg_data/a")], "out of order"),
        ("backwards", vec![top.clone(), directory("pg_data/b"), directory("pg_data/a")], "out of order"),
        (
            "a file with something in it",
            [std::slice::from_ref(&top), &whole("pg_data/a"), &whole("pg_data/a/b")].concat(),
            "lies in no directory",
        ),
        ("without its directory", vec![top.clone(), directory("pg_data/a/b")], "lies in no directory"),
        ("without any directory", whole("pg_data/a").to_vec(), "lies in no directory"),
        ("no place", vec![top.clone(), directory("pg_elsewhere")], "no place in a cluster"),
        ("an unknown tablespace", vec![top.clone(), directory("pg_tblspc/5")], "no such tablespace"),
        ("a file without an end", vec![top.clone(), file_record("pg_data/a", 0, 0o600)], "has no end"),
    ] {
        let forge = with_leaf(&leaf(&records));
        restore_fails(what, &forge, &[], words);
    }
}

/// A link of the cluster that is mended leads out, and the list passes over what would take its place.
#[test]
fn nothing_is_written_through_a_link_that_is_there() {
    let without = Content::new().with(|c| {
        c.directory("pg_data", 0o700);
        c.file("pg_data/PG_VERSION", b"15\n");
        c.file("pg_data/base/evil", b"evil");
        c.directory("pg_data/global", 0o700);
        c.file(RelPath::PG_CONTROL, &[7; 8192]);
    });
    let with = Content::new().with(|c| {
        c.directory("pg_data", 0o700);
        c.file("pg_data/PG_VERSION", b"15\n");
        c.directory("pg_data/base", 0o700);
        c.file("pg_data/base/good", b"good");
        c.directory("pg_data/global", 0o700);
        c.file(RelPath::PG_CONTROL, &[7; 8192]);
    });
    let mended = |content: Content| {
        let forge = forged(content, |_, _| {});
        fs::write(forge.target().join("PG_VERSION"), "15\n").expect("it is ours");
        symlink(forge.outside(), forge.target().join("base")).expect("it is ours");
        forge
    };
    let forge = mended(without);
    restore_fails("no directory", &forge, &["--delta"], "'pg_data/base/evil' lies in no directory");
    let forge = mended(with);
    let finished = forge.run(&[&RESTORE[..], &["--delta"]].concat());
    assert!(finished.success(), "{finished:#?}");
    assert_eq!(fs::read(forge.target().join("base/good")).expect("it was restored"), b"good");
    forge.assert_outside_is_untouched();
    let bare = Content::new().with(|c| {
        c.directory("pg_data", 0o700);
        c.file(RelPath::PG_CONTROL, &[7; 8192]);
    });
    // Nor is the control file put where its directory is none of the list's.
    let forge = forged(bare, |_, _| {});
    fs::write(forge.target().join("PG_VERSION"), "15\n").expect("it is ours");
    symlink(forge.outside(), forge.target().join("global")).expect("it is ours");
    let finished = forge.run(&[&RESTORE[..], &["--delta"]].concat());
    assert_refused("global", &finished, "'pg_data/global/pg_control' lies in no directory");
    forge.assert_outside_is_untouched();
}

/// A tablespace, named and placed as somebody likes.
fn space(name: &str, location: &std::path::Path) -> Tablespace {
    Tablespace { oid: 7, name: name.to_owned(), location: location.display().to_string() }
}

#[test]
fn a_tablespace_is_no_way_out() {
    let in_space = |add: &dyn Fn(&mut Content)| {
        Content::cluster().with(|c| {
            c.directory("pg_tblspc/7", 0o777);
            add(c);
        })
    };
    // Only the directory of the version belongs to the tablespace; what else is in its location is not touched.
    for path in ["pg_tblspc/7/evil", "pg_tblspc/7/PG_14_202107181", "pg_tblspc/7/theirs"] {
        let forge = Forge::new();
        let parts = forge.store(in_space(&|c| c.file(path, b"evil")));
        forge.commit(parts, |_, body| body.tablespaces.push(space("space", &forge.outside())));
        restore_fails(path, &forge, &[], "nothing but");
    }
    // Nor is the location itself, where others have something in it: not even its mode.
    let content = || in_space(&|c| c.directory(&format!("pg_tblspc/7/{VERSION_DIRECTORY}"), 0o700));
    let forge = Forge::new();
    let parts = forge.store(content());
    forge.commit(parts, |_, body| body.tablespaces.push(space("space", &forge.outside())));
    let finished = forge.run(&RESTORE);
    assert!(finished.success(), "{finished:#?}");
    fs::remove_dir(forge.outside().join(VERSION_DIRECTORY)).expect("it was restored");
    forge.assert_outside_is_untouched();
    // Names are no paths.
    for name in ["../outside", "/etc", "..", ".", "a/../.."] {
        let forge = Forge::new();
        let (parts, spaces) = (forge.store(content()), forge.scratch.dir("spaces"));
        forge.commit(parts, |_, body| body.tablespaces.push(space(name, &forge.outside())));
        let all = format!("--tablespace-map-all={}", spaces.display());
        restore_fails(name, &forge, &[&all], "it does not lie in");
        assert_eq!(fs::read_dir(&spaces).expect("it is there").count(), 0);
    }
    for (location, words) in
        [("target/base", "overlaps with the data directory"), ("", "not an absolute path")]
    {
        let forge = Forge::new();
        let place = if location.is_empty() { "relative".into() } else { forge.scratch.path().join(location) };
        forge.commit(forge.store(content()), |_, body| body.tablespaces.push(space("space", &place)));
        restore_fails(location, &forge, &[], words);
    }
}

#[test]
fn links_are_made_where_they_were_asked_for_alone() {
    let content = || {
        Content::cluster().with(|c| {
            c.link("pg_data/zz", b"/outside");
            c.directory("pg_data/zz", 0o700);
            c.file("pg_data/zz/evil", b"evil");
        })
    };
    let link =
        |forge: &Forge| Link { name: "zz".to_owned(), destination: forge.outside().display().to_string() };
    let forge = Forge::new();
    let parts = forge.store(content());
    forge.commit(parts, |_, body| body.links.push(link(&forge)));
    // The directory is somebody else's, and nothing is written into it, whatever the backup says it was.
    restore_fails("as it was", &forge, &["--link-all"], "because it contains files");
    assert!(!exists(&forge.target().join("PG_VERSION")), "the target was touched");
    let finished = forge.run(&RESTORE);
    assert!(finished.success(), "{finished:#?}");
    assert_eq!(fs::read(forge.target().join("zz/evil")).expect("it takes the link's place"), b"evil");
    forge.assert_outside_is_untouched();
}

#[test]
fn sizes_that_lie_take_no_memory() {
    // Larger than any memory, and holes on the disk.
    let content = Content::cluster().with(|c| c.zeros("pg_data/postgresql.auto.conf", 4 << 30));
    restore_fails("settings", &forged(content, |_, _| {}), &[], "postgresql.auto.conf has more than");

    type Lie = fn(&mut Body);
    let lies: [(&str, Lie, &str); 8] = [
        ("data packs", |body| body.layers[0].data_packs = u32::MAX, "data packs"),
        ("index packs", |body| body.layers[0].index_packs = vec![0; 70_000], "index packs"),
        ("layers", |body| body.layers = vec![body.layers[0].clone(); 1001], "layers"),
        ("places", |body| body.config_files = vec![String::new(); 10_001], "config files"),
        ("entries", |body| body.resolved_entries = 3, "more entries than its manifest says"),
        ("more entries", |body| body.resolved_entries = u64::MAX, "does not give the list of files"),
        (
            "the root",
            |body| body.layers[0].index.as_mut().expect("it has one").place.len = u32::MAX,
            "behind the end",
        ),
        (
            "the root and its pack",
            |body| {
                body.layers[0].index_packs[0] = 1 << 40;
                body.layers[0].index.as_mut().expect("it has one").place.len = u32::MAX;
            },
            "bytes",
        ),
    ];
    for (what, lie, words) in lies {
        let forge = forged(Content::cluster(), |_, body| lie(body));
        restore_fails(what, &forge, &[], words);
        let verify = forge.run(&["verify"]);
        assert!(!verify.success(), "{what}: {verify:#?}");
        assert_no_crash(what, &verify);
        assert_no_crash(what, &forge.run(&["expire", "--repo1-retention-full=1"]));
    }
    // As many as a manifest may name, and none of them is there.
    let forge = forged(Content::cluster(), |_, body| body.layers[0].data_packs = 1 << 24);
    assert_refused("missing packs", &forge.run(&["verify", "--quick"]), "more of its packs are missing");
}

/// A data pack with one frame that is said to have `raw_len` bytes, of a file of that size.
fn one_frame(codec: Codec, raw_len: usize, payload: &[u8]) -> Forge {
    let forge = Forge::new();
    let sealer = forge.sealer(ObjectKind::DataPack, 1);
    let frame = sealer.seal_compressed(FrameKind::Data, 0, raw_len, codec, payload).expect("a small frame");
    let content = Content::new().with(|c| {
        c.directory("pg_data", 0o700);
        c.file("pg_data/bomb", &vec![1; raw_len]);
    });
    let (records, _, list) = content.made();
    let frame = (u32::try_from(raw_len).expect("it is small"), frame);
    let frames = forge.put_frames(&[frame], &rows_of(&records));
    let parts = forge.close_with(&records, &frames, list);
    forge.commit(parts, |_, _| {});
    forge
}

#[test]
fn decompression_bombs_do_not_go_off() {
    for codec in [Codec::Gz, Codec::Bz2, Codec::Lz4, Codec::Zst] {
        let compression = pgbr_codec::Compression::new(codec, None).expect("it has a level");
        let mut payload = Vec::new();
        let mut compressor = pgbr_codec::Compressor::new(compression).expect("there is memory");
        compressor.compress(&vec![0; 16 << 20], &mut payload).expect("zeros are compressed");
        let forge = one_frame(codec, GRAIN.max(payload.len() + 1), &payload);
        let what = format!("{codec:?}");
        restore_fails(&what, &forge, &[], "frame");
        assert_refused(&what, &forge.run(&["verify"]), "frame");
    }
    // WAL that comes to more than any segment, from an object of a few hundred KiB.
    let forge = forged(Content::cluster(), |_, body| body.backup_label = Some("x".to_owned()));
    forge.put_wal(SEGMENT, std::iter::repeat_n(vec![0; 16 << 20], 65));
    restore_fails("WAL", &forge, &["--type=immediate"], "above the bound");
    let got = forge.scratch.path().join("spool/got");
    let get = ["archive-get", SEGMENT, got.to_str().expect("it is text"), "--archive-timeout=100ms"];
    assert_refused("archive-get", &forge.run(&get), "above the bound");
    assert_eq!(fs::read_dir(forge.scratch.path().join("spool")).expect("it is there").count(), 0);
    assert_no_crash("verify", &forge.run(&["verify"]));
    // A history that is none, and one that goes round in a circle.
    for (what, pieces, words) in [
        ("a long history", vec![vec![b'\n'; 16 << 20]; 2], "above the bound"),
        ("a circle", vec![b"1\t0/3000000\tx\n3\t0/4000000\tx\n2\t0/5000000\tx\n".to_vec()], "do not grow"),
        ("itself", vec![b"4\t0/3000000\tx\n".to_vec()], "do not grow"),
    ] {
        let forge = forged(Content::cluster(), |_, _| {});
        forge.put_wal("00000004.history", pieces.into_iter());
        restore_fails(what, &forge, &["--type=default", "--target-timeline=4"], words);
        assert_no_crash(what, &forge.run(&["verify"]));
    }
}

#[test]
fn json_that_is_deep_or_long_takes_no_stack() {
    let (summary, body) = manifest(Forge::new().store(Content::cluster()));
    let (summary, body) = (summary.to_json().expect("it is small"), body.to_json().expect("it has a form"));
    let with = |json: &[u8], depth: usize| {
        let text = String::from_utf8(json.to_vec()).expect("it is text");
        text.replacen('{', &format!("{{\"deep\":{}{},", "[".repeat(depth), "]".repeat(depth)), 1).into_bytes()
    };
    for (what, summary, body) in
        [("summary", with(&summary, 1000), body.clone()), ("body", summary.clone(), with(&body, 1_000_000))]
    {
        let forge = Forge::new();
        forge.store(Content::cluster());
        forge.commit_json(&summary, &body);
        // Fields that nobody knows are passed over, however deep they go.
        let set = format!("--set={LABEL}");
        for command in [&["info", "--output=json"][..], &["verify"], &[&RESTORE[..], &[&set]].concat()] {
            let finished = forge.run(command);
            assert!(finished.success(), "{what}: {command:?}: {finished:#?}");
        }
    }
    let forge = forged(Content::cluster(), |_, _| {});
    let at = |name: &str| forge.scratch.path().join("repo/pgbr").join(name);
    let whole = fs::read_to_string(at("repo.json")).expect("it is there");
    for slots in ["{}", "[],", &"[".repeat(100_000), &"{},".repeat(80_000)] {
        let text = whole.replace("\"slots\":[]", &format!("\"slots\":[{slots}]"));
        assert_ne!(text, whole);
        fs::write(at("repo.json"), &text).expect("it is ours");
        fs::write(at("repo.json.copy"), &text).expect("it is ours");
        assert_refused("slots", &forge.run(&["info"]), "repo.json");
    }
    fs::write(at("repo.json"), &whole).expect("it is ours");
    let nested = format!("{{\"record\":\"hold\",\"name\":\"NAME\",\"label\":{}", "[".repeat(500_000));
    forge.put_record(format!("pgbr/demo/hold/{LABEL}.0000000000000001"), &nested);
    let expired = forge.run(&["expire", "--repo1-retention-full=1"]);
    assert_no_crash("a hold", &expired);
    assert!(forge.scratch.path().join(format!("repo/pgbr/demo/backup/{LABEL}/manifest")).exists());
}

/// A fence of these entries: path, grain, stream offset, and place.
fn fence(level: u64, entries: impl Iterator<Item = (String, u64, u64, NodePlace)>) -> Vec<u8> {
    let (mut bytes, mut last) = (Vec::new(), String::new());
    varint(&mut bytes, level);
    for (path, grain, stream, place) in entries {
        let shared = last.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        varint(&mut bytes, shared as u64);
        varint(&mut bytes, (path.len() - shared) as u64);
        bytes.extend(&path.as_bytes()[shared..]);
        for field in [grain, stream, place.number, place.pack.into(), place.offset, place.len.into()] {
            varint(&mut bytes, field);
        }
        last = path;
    }
    bytes
}

#[test]
fn an_index_of_billions_takes_no_memory_and_has_an_end() {
    let size = 1 << 40;
    let begin = [
        Record::Directory { path: rel("pg_data"), meta: Default::default() },
        file_record("pg_data/a", size, 0o600),
    ];
    let nothing = Record::Continue { path: rel("pg_data/a"), grain: 0 };
    let idle = |forge: &Forge| {
        let mut index = forge.index();
        let (first, again) = (
            index.node(NodeKind::Leaf, &leaf(&begin)),
            index.node(NodeKind::Leaf, &leaf(std::slice::from_ref(&nothing))),
        );
        // Eight levels, each with thousands of entries that all lead to the same leaf.
        let entries = std::iter::once(("pg_data".to_owned(), 0, 0, first))
            .chain(std::iter::repeat_n(("pg_data/a".to_owned(), 0, 0, again), 5000));
        let mut top = index.node(NodeKind::Fence, &fence(1, entries));
        for level in 2..=8 {
            let entry = ("pg_data".to_owned(), 0, 0, top);
            top = index.node(NodeKind::Fence, &fence(level, std::iter::repeat_n(entry, 5000)));
        }
        forge.close(index, Some(Root { level: 8, place: top }), None, 0, (1 << 40, Digest([0; 32])))
    };
    // Fences whose entries have long paths and take a byte or two each.
    let wide = |forge: &Forge| {
        let mut index = forge.index();
        let path = format!("pg_data{}", format!("/{}", "x".repeat(250)).repeat(16));
        let mut top = index
            .node(NodeKind::Leaf, &leaf(&[Record::Directory { path: rel(&path), meta: Default::default() }]));
        for level in 1..=8 {
            let entry = (path.clone(), 0, 0, top);
            top = index.node(NodeKind::Fence, &fence(level, std::iter::repeat_n(entry, 10_000)));
        }
        forge.close(index, Some(Root { level: 8, place: top }), None, 0, (1 << 40, Digest([0; 32])))
    };
    let check = |what: &str, make: &dyn Fn(&Forge) -> Parts, words: &str| {
        let forge = Forge::new();
        forge.commit(make(&forge), |_, _| {});
        restore_fails(what, &forge, &[], words);
        let verify = forge.run(&["verify"]);
        assert!(!verify.success(), "{what}: {verify:#?}");
        assert_no_crash(what, &verify);
    };
    check("one leaf again and again", &idle, "does not come after the leaf before");
    check("long paths in short fences", &wide, "does not come after the leaf before");
    // Tables of frames that are none.
    let empty = |forge: &Forge| {
        let mut index = forge.index();
        let table = index.node(NodeKind::FrameTable, &[0]);
        let mut bytes = vec![1];
        for _ in 0..5000 {
            [0, table.number, 0, table.offset, table.len.into()]
                .iter()
                .for_each(|field| varint(&mut bytes, *field));
        }
        let place = index.node(NodeKind::TableFence, &bytes);
        let leaf = index.node(NodeKind::Leaf, &leaf(&begin[..1]));
        let roots = (Some(Root { level: 0, place: leaf }), Some(Root { level: 1, place }));
        forge.close(index, roots.0, roots.1, 0, (1, Digest([0; 32])))
    };
    check("tables without frames", &empty, "has no frames");
    // Millions of files of one byte in one frame.
    check("crumbs", &crumbs, "frame");
}

/// More files of one byte than a pack's rows can tell of, in one frame that is damaged.
fn crumbs(forge: &Forge) -> Parts {
    let (count, hash) = (200_000_u32, key().grain(&[1]));
    let digest = digest_of(1, [hash].into_iter());
    let mut records = vec![Record::Directory { path: rel("pg_data"), meta: Default::default() }];
    for number in 0..count {
        records.push(file_record(&format!("pg_data/{}{number:08}", "x".repeat(200)), 1, 0o600));
        records.extend([Record::Grains { gap: 0, hashes: vec![hash] }, end_record(1, digest)]);
    }
    let sealer = forge.sealer(ObjectKind::DataPack, 1);
    let mut frame =
        sealer.seal(&mut zst(), FrameKind::Data, 0, &vec![2; count as usize]).expect("a small frame");
    *frame.last_mut().expect("it has a tag") ^= 1;
    let frames = forge.put_frames(&[(count, frame)], b"");
    forge.close_with(&records, &frames, (u64::from(count) + 1, Digest([0; 32])))
}

#[test]
fn chains_that_are_none_are_refused() {
    let own = Parent { label: label(), id: pgbr_manifest::BackupId([8; 16]), digest: Digest([0; 32]) };
    let forge = forged(Content::cluster(), |_, body| body.parent = Some(own.clone()));
    restore_fails("its own parent", &forge, &[&format!("--set={LABEL}")], "do not belong together");
    for (what, change) in [
        ("a prior", Box::new(|s: &mut Summary| s.prior = Some(label())) as Box<dyn Fn(&mut Summary)>),
        ("another label", Box::new(|s: &mut Summary| s.label = "20261123-120000F".parse().expect("a label"))),
    ] {
        let forge = forged(Content::cluster(), |summary, _| change(summary));
        restore_fails(what, &forge, &[&format!("--set={LABEL}")], LABEL);
        assert_no_crash(what, &forge.run(&["info"]));
        assert_no_crash(what, &forge.run(&["expire", "--repo1-retention-full=1"]));
    }
}

#[test]
fn positions_that_lie_are_followed_by_nobody() {
    let far = "00000001FFFFFFFF000000FF".parse().expect("a segment");
    let forge = forged(Content::cluster(), |summary, body| {
        summary.wal.stop = far;
        summary.lsn.stop = pgbr_manifest::Lsn::new(u64::MAX);
        summary.time.stop = i64::MAX;
        summary.sizes.database = u64::MAX;
        summary.sizes.stored = u64::MAX;
        body.backup_label = Some("x".to_owned());
    });
    for command in [
        &["info"][..],
        &["info", "--output=json"],
        &["verify"],
        &["expire", "--repo1-retention-full=1"],
        &["restore", "--dry-run", "--type=immediate"],
        &["repo-ls", "--recurse", "--output=json"],
        &["repo-get", &format!("pgbr/demo/backup/{LABEL}/manifest")],
        &["repo-get", "backup/demo/backup.info"],
    ] {
        assert_no_crash(&command.join(" "), &forge.run(command));
    }
    // Whoever copies it would need all WAL that there can be.
    let copy = forge.scratch.dir("copy");
    let to = format!("--repo2-path={}", copy.display());
    let finished = forge.run(&["repo-copy", &to, "--repo=1", "--to-repo=2"]);
    assert_no_crash("repo-copy", &finished);
    assert!(!finished.success(), "{finished:#?}");
}
