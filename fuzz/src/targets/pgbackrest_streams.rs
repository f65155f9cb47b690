//! Foreign bytes as stored files of pgBackRest: segments in normal framing, and a bundle of raw ones, with and without encryption.

use pgbr_pgbackrest::Repository;

pub(crate) fn run(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let (objects, passphrase) = crate::pgbackrest::repository(how, bytes);
    let stanza = Repository::new(objects, passphrase).stanza("main".parse().expect("it is a name"));
    let archive = stanza.archive().expect("it was made right");
    for id in archive.ids().expect("there is memory") {
        for object in archive.files(id, "0000000100000000").expect("there is memory") {
            let Ok(content) = archive.open(&object, None) else { continue };
            assert!(content.into_bytes(1 << 20).is_err(), "nothing has this checksum");
        }
    }
    let backups = stanza.backups().expect("it was made right");
    for entry in &backups.usable {
        let backup = backups.open(entry.label).expect("it was made right");
        for file in &backup.manifest().files {
            let Ok(content) = backup.open(file) else { continue };
            assert!(content.into_bytes(1 << 20).is_err(), "nothing has this checksum");
        }
    }
}
