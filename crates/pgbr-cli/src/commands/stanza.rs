//! stanza-create.

use pgbr::{Host, StanzaCreateRequest, StanzaCreated, stanza_create};

use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn create(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let key = settings.repo_key();
    if let Some((asked, used)) = request::renamed_cipher(settings) {
        context.log.info(&format!("cipher type {asked} is taken as 'encrypted': a new repository is sealed with {used}, which also finds changes"));
    }
    let stanza = request::stanza(settings)?;
    context.log.info(&format!("stanza-create for stanza '{stanza}' on repo{key}"));
    let request = StanzaCreateRequest {
        repo: request::repo(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        online: settings.get_bool("online"),
        stanza: stanza.clone(),
    };
    match stanza_create(host, request).await.map_err(|e| context.failure(&e))? {
        StanzaCreated::New => {}
        StanzaCreated::AlreadyThere => {
            context.log.info(&format!("stanza '{stanza}' already exists on repo{key} and is valid"));
        }
    }
    Ok(0)
}
