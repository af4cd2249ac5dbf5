//! Properties of the decision for random guests and hosts.

#![expect(clippy::unwrap_used, reason = "a test program; a panic fails the test")]

#[expect(dead_code, reason = "only the fuzz target uses its entry point")]
#[path = "../../fuzz/properties/domain.rs"]
mod domain;
mod guests;
mod rules;

use domain::check_prefilter;
use guests::{Guest, Place, guest, host, model};
use proptest::option;
use proptest::prelude::*;
use viommu::config::Config;
use viommu::domain::Domain;
use viommu::hook::Event;
use viommu::host::Host;
use viommu::note::Code;
use viommu::plan::{Origin, Plan, Refusal, kept, plan};
use viommu::request::{Keys, Request, RequestedModel, Source};
use viommu::rewrite::rewrite;
use viommu::version::{NEWEST_LIBVIRT, NEWEST_QEMU};
use viommu::xml;

/// The plan of a guest with a valid request, and the changed XML.
fn planned(guest: &Guest, host: &Host) -> Option<(Result<Plan, Refusal>, Option<String>)> {
    let text = guest.xml();
    let document = xml::parse(text.as_bytes()).unwrap();
    let domain = Domain::read(&document).unwrap();
    let request = Request::of(&domain, &Keys::default(), &Config::default()).ok()?;
    let plan = plan(&domain, &request, host);
    let rewritten = plan.as_ref().ok().and_then(|plan| rewrite(&document, plan).unwrap());
    Some((plan, rewritten))
}

fn versions(host: &Host) -> (viommu::version::Version, viommu::version::Version) {
    let qemu = host.emulators.first().and_then(|emulator| emulator.version);
    (host.libvirt.unwrap_or(NEWEST_LIBVIRT), qemu.unwrap_or(NEWEST_QEMU))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn added_viommus_are_accepted(guest in guest(), host in host()) {
        let Some((Ok(plan), rewritten)) = planned(&guest, &host) else { return Ok(()) };
        let added = plan.iommu.as_ref().is_some_and(|iommu| iommu.origin == Origin::Added);
        let Some(text) = rewritten.filter(|_| added) else { return Ok(()) };
        let (libvirt, qemu) = versions(&host);
        prop_assert_eq!(rules::accepts(&text, libvirt, qemu), Ok(()), "{}", text);
    }

    /// A valid hand-written vIOMMU stays valid, and keeps its model.
    #[test]
    fn completed_viommus_are_accepted(guest in guest(), host in host()) {
        let (libvirt, qemu) = versions(&host);
        if guest.iommu.is_none() || rules::accepts(&guest.xml(), libvirt, qemu).is_err() {
            return Ok(());
        }
        let Some((Ok(plan), Some(text))) = planned(&guest, &host) else { return Ok(()) };
        prop_assert_eq!(rules::accepts(&text, libvirt, qemu), Ok(()), "{}", text);
        prop_assert_eq!(plan.iommu.map(|iommu| iommu.name), guest.iommu.map(|(model, _)| model.to_owned()));
    }

    #[test]
    fn more_devices_never_need_fewer_bytes(guest in guest(), host in host(), more in 1_usize..4, bridge in any::<bool>()) {
        let mut larger = guest.clone();
        larger.vfio.extend(vec![if bridge { Place::Bridge } else { Place::Port }; more]);
        let (Some((few, _)), Some((many, _))) = (planned(&guest, &host), planned(&larger, &host)) else { return Ok(()) };
        // A refused guest does not start.
        if let (Ok(few), Ok(many)) = (few, many) {
            prop_assert!(many.memlock.required_bytes >= few.memlock.required_bytes, "{:?} {:?}", many.memlock, few.memlock);
            prop_assert!(many.memlock.address_spaces.len() >= few.memlock.address_spaces.len());
        }
    }

    /// Every container accounts all of guest memory: the need is never below that, and the limit is never below
    /// libvirt's own.
    #[test]
    fn the_need_covers_every_address_space(guest in guest(), host in host()) {
        let Some((outcome, _)) = planned(&guest, &host) else { return Ok(()) };
        let plan = kept(&outcome);
        let memory = u128::from(guest.memory_gib.max(guest.max_memory_gib.unwrap_or(0))) << 30;
        let containers = plan.memlock.address_spaces.len() + guest.nvme_disks as usize;
        let needed = (containers > 0).then(|| memory * containers as u128 + (1 << 30));
        let required = plan.memlock.required_bytes.map(|limit| match limit {
            viommu::limit::Limit::Bytes(bytes) => u128::from(bytes),
            viommu::limit::Limit::Unlimited => u128::MAX,
        });
        prop_assert_eq!(required, needed);
        prop_assert!(!plan.memlock.raise || plan.memlock.required_bytes > plan.memlock.libvirt_bytes);
    }

    #[test]
    fn a_weaker_source_never_overrides_a_stronger_one(
        guest in guest(),
        (cli, config) in (option::of(model()), option::of(model())),
        metadata in option::of(model()),
    ) {
        let guest = Guest { metadata: metadata.map(|model| format!("model='{model}'")), ..guest };
        let words = [
            (Source::Cli, cli),
            (Source::Metadata, metadata),
            (Source::NovaFlavor, guest.flavor),
            (Source::NovaImage, guest.image),
            (Source::Config, config),
        ];
        let config = config.map_or_else(Config::default, |model| {
            Config::parse(&format!("[default]\nmodel = '{model}'")).unwrap()
        });
        let text = guest.xml();
        let domain = Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap();
        let keys = Keys { model: cli.map(str::to_owned), ..Keys::of(Source::Cli) };
        let request = Request::of(&domain, &keys, &config).unwrap();
        let strongest = words.into_iter().find_map(|(source, word)| Some((source, word?)));
        let (source, word) = strongest.unwrap_or((Source::None, "none"));
        prop_assert_eq!((request.source, request.model.as_str()), (source, word));
    }

    #[test]
    fn the_prefilter_finds_what_the_parser_finds(guest in guest()) {
        let text = guest.xml();
        for event in [Event::Prepare, Event::Started, Event::Migrate, Event::Stopped] {
            check_prefilter(&text, event);
        }
    }

    #[test]
    fn every_note_has_a_known_code(guest in guest(), host in host()) {
        let Some((outcome, rewritten)) = planned(&guest, &host) else { return Ok(()) };
        let plan = kept(&outcome);
        let json = outcome.as_ref().map_or_else(serde_json::to_value, serde_json::to_value).unwrap();
        for note in json["notes"].as_array().unwrap() {
            let code = Code::from_name(note["code"].as_str().unwrap());
            prop_assert!(code.is_some() && !note["message"].as_str().unwrap().is_empty(), "{}", note);
        }
        // A refused guest is unchanged, and a guest without a request gets no vIOMMU.
        prop_assert!(outcome.is_ok() || (plan.changes.is_empty() && plan.qemu.is_empty() && !plan.memlock.raise));
        let silent = plan.request.model == RequestedModel::None && !plan.request.locked_memory;
        prop_assert!(!silent || (rewritten.is_none() && plan.changes.is_empty() && plan.qemu.is_empty()));
    }
}
