//! stanza-create, stanza-upgrade and stanza-delete.

use std::path::Path;

use pgbr::{
    Host, RepoAccess, StanzaCreateRequest, StanzaCreated, StanzaDeleteRequest, StanzaDeleted,
    StanzaUpgradeRequest, StanzaUpgraded, stanza_create, stanza_delete, stanza_upgrade,
};

use super::each::each;
use super::witness;
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn create(context: &Context, host: &Host) -> Outcome {
    let created = each(context, async |key, repo| create_one(context, host, key, repo).await).await;
    request::forget_facts(&context.settings);
    created
}

async fn create_one(context: &Context, host: &Host, key: u16, repo: RepoAccess) -> Result<(), CliError> {
    let settings = &context.settings;
    if let Some((asked, used)) = request::renamed_cipher(settings, key) {
        context.log.info(&format!("cipher type {asked} is taken as 'encrypted': a new repository is sealed with {used}, which also finds changes"));
    }
    let stanza = request::stanza(settings)?;
    context.log.info(&format!("stanza-create for stanza '{stanza}' on repo{key}"));
    let request = StanzaCreateRequest {
        repo,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        online: settings.get_bool("online"),
        stanza: stanza.clone(),
    };
    let host = context.host_of(host, key);
    match stanza_create(&host, request).await.map_err(|e| context.failure(&e))? {
        StanzaCreated::New => {}
        StanzaCreated::AlreadyThere => {
            context.log.info(&format!("stanza '{stanza}' already exists on repo{key} and is valid"));
        }
    }
    witness::keep(context, &host, key).await;
    Ok(())
}

pub(super) async fn upgrade(context: &Context, host: &Host) -> Outcome {
    let upgraded = each(context, async |key, repo| upgrade_one(context, host, key, repo).await).await;
    request::forget_facts(&context.settings);
    upgraded
}

async fn upgrade_one(context: &Context, host: &Host, key: u16, repo: RepoAccess) -> Result<(), CliError> {
    let settings = &context.settings;
    let stanza = request::stanza(settings)?;
    context.log.info(&format!("stanza-upgrade for stanza '{stanza}' on repo{key}"));
    let request = StanzaUpgradeRequest {
        repo,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        online: settings.get_bool("online"),
        stanza: stanza.clone(),
    };
    let host = context.host_of(host, key);
    match stanza_upgrade(&host, request).await.map_err(|e| context.failure(&e))? {
        StanzaUpgraded::To(archive) => context.log.info(&format!(
            "WAL of stanza '{stanza}' goes to archive {archive} from now on; the next backup is a full"
        )),
        StanzaUpgraded::UpToDate => {
            context.log.info(&format!("stanza '{stanza}' on repo{key} is already up to date"));
        }
    }
    witness::keep(context, &host, key).await;
    Ok(())
}

pub(super) async fn delete(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let (key, stanza) = (settings.repo_key(), request::stanza(settings)?);
    let directory = settings.get_path("lock-path").unwrap_or(Path::new("/tmp/pgbr"));
    let own = pgbr::stop_file(directory, Some(&stanza)).map_err(|e| context.failure(&e.into()))?;
    if own.is_none_or(|found| found.all) {
        let message = format!("stop file does not exist for stanza '{stanza}'");
        let program = settings.flavor().program();
        return Err(CliError::new(ErrorCode::FileMissing, message)
            .hint(format!("has the {program} stop command been run on this server for this stanza?")));
    }
    let request = StanzaDeleteRequest {
        repo: request::repo_of(settings, key)?,
        stanza: stanza.clone(),
        pg_data: if settings.get_bool("force") { Vec::new() } else { request::all_pg_data(settings) },
    };
    let deleted = stanza_delete(host, request).await;
    request::forget_facts(settings);
    match deleted.map_err(|e| context.failure(&e))? {
        StanzaDeleted::Gone => {
            context
                .log
                .info(&format!("stanza '{stanza}' with its backups and WAL is removed from repo{key}"));
        }
        StanzaDeleted::NotThere => {
            context.log.warn(&format!("stanza '{stanza}' does not exist on repo{key}"));
        }
    }
    witness::forget(context, host, key).await;
    pgbr::remove_stop_file(directory, Some(&stanza)).map_err(|e| context.failure(&e.into()))?;
    Ok(0)
}
