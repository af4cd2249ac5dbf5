//! The one way from a document's bytes to a plan, for the hook, the managers and the command line.

use memchr::memmem;

use crate::config::Config;
use crate::domain::Domain;
use crate::host::Host;
use crate::note::Note;
use crate::plan::{self, Plan, Refusal, Route};
use crate::request::{Keys, Request};
use crate::xml::{self, Document};

/// The decision about a guest, and what it was made from.
pub struct Decided<'a> {
    /// The document.
    pub document: Document<'a>,
    /// What the document says.
    pub domain: Domain,
    /// The host's configuration.
    pub config: Config,
    /// What is known about the host.
    pub host: Host,
    /// The decision.
    pub plan: Result<Plan, Refusal>,
    /// Errors that do not concern this guest, for the host's log.
    pub log: Vec<Note>,
}

/// Why no decision about a guest is possible.
pub struct Undecided {
    /// The reason.
    pub note: Note,
    /// The guest has, or may have, a request.
    pub asks: bool,
}

/// Decides about the guest of a document. `keys` are the strongest request, from outside the document. `host` is told
/// the request, if the guest depends on the host.
///
/// # Errors
/// The document cannot be read, or the configuration or a fact about the host that the guest depends on cannot.
pub fn decide<'a>(
    xml: &'a [u8],
    keys: &Keys,
    config: Result<Config, Note>,
    host: impl FnOnce(&Domain, Option<&Request>) -> Result<Host, Note>,
) -> Result<Decided<'a>, Undecided> {
    // A rule of the host can apply to a document that cannot be read.
    let ruled = keys.asks() || config.as_ref().is_ok_and(Config::has_request);
    let unreadable = |note| Undecided { note, asks: ruled || may_ask(xml) };
    let asks = |note| Undecided { note, asks: true };
    let document = xml::parse(xml).map_err(unreadable)?;
    let domain = Domain::read(&document).map_err(unreadable)?;
    let mut log = Vec::new();
    let config = match config {
        Ok(config) => config,
        Err(broken) => {
            // The host's rules are unknown, so the error refuses only a guest that asks by itself or uses the wrapper.
            let request = Request::of(&domain, keys, &Config::default());
            if plan::chose_wrapper(&domain) || request.map_or(true, |request| request.asks()) {
                return Err(asks(broken));
            }
            log.push(broken);
            Config::default()
        }
    };
    let request = Request::of(&domain, keys, &config);
    // An invalid request still counts as a request.
    let asking = request.as_ref().map_or(true, Request::asks);
    let concerned = asking || plan::route(&domain) == Route::Wrapper || plan::has_viommu(&domain);
    let nothing = Request::default();
    let known = request.as_ref().unwrap_or(&nothing);
    let host = match host(&domain, concerned.then_some(known)) {
        Ok(host) => host,
        Err(note) if asking => return Err(asks(note)),
        Err(note) => {
            log.push(note);
            Host::default()
        }
    };
    let plan = plan::plan_for(&domain, request, &host);
    Ok(Decided { document, domain, config, host, plan, log })
}

impl Decided<'_> {
    /// Whether the guest asks for something: what fails then refuses the start. The wrapper, too, is a request.
    #[must_use]
    pub fn asks(&self) -> bool {
        plan::kept(&self.plan).request.asks() || plan::chose_wrapper(&self.domain)
    }
}

/// Whether a document that cannot be read may hold a request: it has one of the words of a request, or can hide one. Tenants
/// choose names and metadata: a guest must not lose its vIOMMU because its XML was made unreadable, nor be refused without a
/// request.
fn may_ask(xml: &[u8]) -> bool {
    let has = |word: &str| memmem::find(xml, word.as_bytes()).is_some();
    has("viommu") || has("locked_memory") || !xml::is_plain(xml)
}
