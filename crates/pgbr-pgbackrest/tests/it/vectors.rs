//! Repositories with blocks, of versions that not every system has: written once by `tests/vectors/make.sh`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgbr_manifest::RelPath;
use pgbr_pgbackrest::{Backup, Directory, Error, File, Objects, Passphrase, Place, Repository, Stanza};

/// What is not read.
const BETA: &str = "2.45-beta";

struct Vector {
    name: String,
    path: PathBuf,
}

impl Vector {
    fn stanza(&self) -> Stanza {
        self.stanza_of(Arc::new(Directory::new(&self.path)))
    }

    fn stanza_of(&self, objects: Arc<dyn Objects>) -> Stanza {
        let passphrase = self.name.ends_with("encrypted").then(|| Passphrase::new("vectors"));
        Repository::new(objects, passphrase).stanza("main".parse().unwrap())
    }
}

fn vectors() -> Vec<Vector> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let entries = std::fs::read_dir(here).unwrap().map(|entry| entry.unwrap().path());
    let directories = entries.filter(|path| path.is_dir());
    let named =
        directories.map(|path| Vector { name: path.file_name().unwrap().to_str().unwrap().to_owned(), path });
    let vectors: Vec<_> = named.filter(|vector| vector.name != BETA).collect();
    assert_eq!(vectors.len(), 8);
    vectors
}

fn backups(stanza: &Stanza) -> Vec<Backup> {
    let backups = stanza.backups().unwrap();
    backups.usable.iter().map(|entry| backups.open(entry.label).unwrap()).collect()
}

fn read(backup: &Backup, file: &File) -> Result<Vec<u8>, Error> {
    backup.open(file)?.into_bytes(1 << 30)
}

#[test]
fn files_of_blocks_are_what_their_manifest_says() {
    for vector in vectors() {
        let backups = backups(&vector.stanza());
        assert_eq!(backups.len(), 5, "{}", vector.name);
        for backup in &backups {
            assert!(backup.manifest().options.block_incr && backup.manifest().options.bundle_raw);
            for file in &backup.manifest().files {
                let content = read(backup, file)
                    .unwrap_or_else(|error| panic!("{}: {}: {error}", vector.name, file.path));
                assert_eq!(content.len() as u64, file.size);
                // The checksum of what is stored: of super blocks and map, as they lie there.
                if let Some(stored) = backup.open_stored(file).unwrap() {
                    assert!(file.blocks.is_none() || file.stored_checksum.is_some(), "{}", file.path);
                    stored.into_bytes(1 << 30).unwrap();
                }
            }
        }
        // Not only what the manifest says, but what was written: see make.sh.
        let file = RelPath::new("pg_data/base/5/101").unwrap();
        let newest = backups.last().unwrap();
        let content = read(newest, newest.manifest().file(&file).unwrap()).unwrap();
        let mut told = content.chunks(8192).map(|block| block.chunks(32).all(|piece| piece == &block[..32]));
        assert!(content.len() == 20 * 8192 && told.all(|same| same));
        let first = read(&backups[0], backups[0].manifest().file(&file).unwrap()).unwrap();
        let changed = |block: usize| content[block * 8192..][..8192] != first[block * 8192..][..8192];
        let changed: Vec<usize> = (0..20).filter(|block| changed(*block)).collect();
        assert_eq!(changed, [0, 5, 7, 9]);
    }
}

#[test]
fn every_way_of_storing_blocks_is_met() {
    for vector in vectors() {
        let (mut own, mut bundled, mut whole, mut of_several, mut gone_on, mut several) = (0, 0, 0, 0, 0, 0);
        for backup in backups(&vector.stanza()) {
            for file in &backup.manifest().files {
                let Some(map) = backup.block_map(file).unwrap() else {
                    whole += 1;
                    continue;
                };
                match file.place {
                    Place::Own => own += 1,
                    Place::Bundle { .. } => bundled += 1,
                }
                let mut supers: Vec<_> = map.runs().iter().map(|run| run.super_block).collect();
                supers.dedup();
                let distinct: BTreeSet<_> = supers.iter().collect();
                let references: BTreeSet<_> = supers.iter().map(|block| block.reference).collect();
                gone_on += u32::from(distinct.len() < supers.len());
                of_several += u32::from(references.len() > 2);
                several += u32::from(distinct.len() > references.len());
                // Each block by itself, as a restore takes it that needs only some.
                let mut contents = BTreeMap::new();
                for block in map.blocks() {
                    let read = || backup.super_block(file, &block.super_block).unwrap();
                    let content: &Vec<u8> = contents.entry(block.super_block).or_insert_with(read);
                    let start = usize::try_from(block.in_super_block * map.shape().block_size).unwrap();
                    let length = usize::try_from(map.block_length(block.number)).unwrap();
                    assert!(map.fits(block.number, &content[start..start + length]));
                }
            }
        }
        assert!(own > 0 && bundled > 0 && whole > 0, "{}", vector.name);
        assert!(of_several > 0, "{}: no file has blocks of three backups", vector.name);
        assert!(gone_on > 0, "{}: no map comes back to a super block", vector.name);
        assert!(several > 0, "{}: no backup has several super blocks of a file", vector.name);
    }
}

/// Whatever is changed, what comes out is right or an error.
#[test]
fn no_change_of_a_byte_gives_wrong_content() {
    let dense = std::env::var_os("PGBR_TEST_DENSE").is_some_and(|value| value == "1");
    // One with encryption and one without.
    let sampled =
        |vector: &Vector| dense || ["2.59-gz-encrypted", "2.46-zst"].contains(&vector.name.as_str());
    for vector in vectors().into_iter().filter(sampled) {
        let whole = objects(&vector.path);
        let right: Vec<_> = contents(&vector, &whole).into_iter().map(Result::unwrap).collect();
        let mut found = 0;
        let stored = whole.iter().filter(|(key, _)| key.contains("bundle") || key.ends_with(".pgbi"));
        for (nth, (key, bytes)) in stored.enumerate() {
            // Some places of each object, other ones in each, and always its end, where a map is.
            let places = (nth * 13..bytes.len()).step_by(bytes.len() / 2 + 1).chain([bytes.len() - 1]);
            for at in places {
                let mut changed = whole.clone();
                changed.get_mut(key).unwrap()[at] ^= 0x11;
                for (read, right) in contents(&vector, &changed).into_iter().zip(&right) {
                    match read {
                        Ok(content) => assert!(content == *right, "{}: {key} at {at}", vector.name),
                        Err(Error::Damaged { .. } | Error::ContentMismatch { .. }) => found += 1,
                        Err(error) => panic!("{}: {key} at {at}: {error:?}", vector.name),
                    }
                }
            }
        }
        assert!(found > 20, "{}: only {found} were noticed", vector.name);
    }
}

fn objects(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut objects, mut directories) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => {
                    let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    drop(objects.insert(key, std::fs::read(&path).unwrap()));
                }
            }
        }
    }
    objects
}

/// The files of the newest backup, which has something of all others.
fn contents(vector: &Vector, objects: &BTreeMap<String, Vec<u8>>) -> Vec<Result<Vec<u8>, Error>> {
    let backups = backups(&vector.stanza_of(Arc::new(objects.clone())));
    let newest = backups.last().unwrap();
    newest.manifest().files.iter().map(|file| read(newest, file)).collect()
}

#[test]
fn blocks_of_the_beta_are_refused_by_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(BETA);
    let vector = Vector { name: BETA.to_owned(), path };
    let (mut refused, mut whole) = (0, 0);
    for backup in backups(&vector.stanza()) {
        for file in &backup.manifest().files {
            match (read(&backup, file), file.blocks) {
                (Ok(_), None) => whole += 1,
                (Err(Error::Unsupported { .. }), Some(_)) => refused += 1,
                (other, _) => panic!("{}: {:?}", file.path, other.map(|content| content.len())),
            }
        }
    }
    assert!(refused > 0 && whole > 0);
}
