//! Records of every kind, with right tags, under the name that they should have: read by who reads them, and never in a way that takes
//! protection from a backup.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::ObjectStoreExt;
use pgbr_codec::{LaneSeed, seal_record};
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{
    BackupStore, Drills, Holds, LeaseName, LeaseState, Leases, LedgerOf, Ledgers, Notes, Pins, Repo, Stanza, Store,
    Watch,
};

const LABEL: &str = "20261122-120000F";

thread_local! {
    static PLACE: (Arc<InMemory>, Repo) = {
        let objects = Arc::new(InMemory::new());
        let store = Store::remote(Arc::<InMemory>::clone(&objects), "memory");
        let repo = crate::plain::block_on(Repo::create(store, crate::plain::options()));
        (objects, repo.expect("a new repository"))
    };
}

pub(crate) fn run(input: (u8, &str)) {
    let (kind, json) = input;
    let keys = [
        "pgbr/demo/stanza.json".to_owned(),
        format!("pgbr/demo/hold/{LABEL}.0101010101010101"),
        format!("pgbr/demo/note/{LABEL}.0000000000000001"),
        format!("pgbr/demo/drill/{LABEL}.0000000000000001"),
        "pgbr/demo/pin/01010101010101010101010101010101".to_owned(),
        "pgbr/demo/pin/01010101010101010101010101010101.beat".to_owned(),
        "pgbr/demo/lease/backup.0000000000000001".to_owned(),
        format!("pgbr/demo/verify/{LABEL}"),
        format!("pgbr/demo/backup/{LABEL}/run-0000000000000007"),
    ];
    let key = &keys[usize::from(kind) % keys.len()];
    PLACE.with(|(objects, repo)| {
        let json = json.replace("NAME", key);
        let Ok(object) = seal_record(repo.keyring(), LaneSeed::from_bytes([4; 32]), json.as_bytes()) else { return };
        let path = Path::from(key.as_str());
        crate::plain::block_on(async {
            objects.put(&path, object.into()).await.expect("there is memory");
            read(repo, &keys, key).await;
            objects.delete(&path).await.expect("it is there");
        });
    });
}

async fn read(repo: &Repo, keys: &[String], key: &String) {
    let (stanza, label): (StanzaName, BackupLabel) = ("demo".parse().expect("a name"), LABEL.parse().expect("a label"));
    let is = |number: usize| keys.get(number) == Some(key);
    if let Ok(stanza) = Stanza::open(repo, &stanza).await {
        assert!(is(0) && !stanza.history().is_empty() && stanza.history().len() <= 1000);
        stanza.archive_id();
    }
    let holds = Holds::new(repo, &stanza).list().await.expect("it can be listed");
    assert_eq!((holds.len(), holds.first().is_none_or(|hold| hold.label == label)), (usize::from(is(1)), true));
    let notes = Notes::new(repo, &stanza).list(None).await.expect("it can be listed");
    assert_eq!(notes.len(), usize::from(is(2)));
    let drills = Drills::new(repo, &stanza).newest(Some(&label)).await.expect("it can be listed");
    assert_eq!(drills.len(), usize::from(is(3)));
    let pins = Pins::new(repo, &stanza).list().await.expect("it can be listed");
    assert_eq!(pins.len(), usize::from(is(4)));
    for pin in pins {
        // A pin that says nothing covers everything; none is stale the moment it is seen first.
        assert!(pin.record.is_some() || (pin.covers_label(&label) && pin.covers_attempt(7)));
        assert!(!pin.is_stale(&mut Watch::new(), Duration::from_secs(1 << 40)));
    }
    let lease = Leases::new(repo, Some(&stanza), LeaseName::backup()).state().await.expect("it can be listed");
    assert_eq!(lease.is_some(), is(6));
    LeaseState::step(lease.as_ref(), Duration::ZERO);
    let ledger = Ledgers::new(repo, &stanza).read(&LedgerOf::Backup(label)).await.expect("it can be read");
    assert!(ledger.is_none() || is(7));
    let runs = BackupStore::new(repo, &stanza).list_runs(&label).await.expect("it can be listed");
    assert_eq!(runs.len(), usize::from(is(8)));
}
