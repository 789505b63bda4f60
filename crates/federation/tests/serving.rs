//! What changes while the kernel serves: galleries, and who is in.

#![allow(clippy::unwrap_used)]

#[path = "harness/world.rs"]
mod world;

use federation::*;
use world::*;

fn settle(world: &mut World) {
    while !world.queue.is_empty() {
        world.deliver();
    }
}

/// A consortium whose kernel serves.
fn serving(seed: u64, sites: usize) -> World {
    let mut world = World::new(sites, seed, |plan| {
        plan.kernel = Some(KernelPlan { normalisation: domain::Normalisation::Z(0.5), ..toy_kernel() });
    });
    world.run();
    settle(&mut world);
    assert!(world.released.is_some());
    world
}

/// A site's images as the toy host brings them, less those of one syndrome and with further ones.
fn gallery(world: &World, site: usize, without: &str, further: &[&str]) -> Vec<GalleryImage> {
    let images = images(site, &world.sites[site].holdings, false).into_iter();
    let image = |(image, syndrome, encoding): (domain::ImageId, domain::SyndromeId, Vec<f32>)| {
        let galleries = if syndrome == id("900") { 2 } else { 1 };
        GalleryImage { image, syndrome, galleries, encoding }
    };
    let mut all: Vec<GalleryImage> =
        images.map(image).filter(|image| image.syndrome.as_str() != without).collect();
    for (at, syndrome) in further.iter().enumerate() {
        let name = domain::ImageId::new(&format!("further-{site}-{at}")).unwrap();
        let encoding = encoding(site, 50 + at, &id(syndrome));
        all.push(GalleryImage { image: name, syndrome: id(syndrome), galleries: 1, encoding });
    }
    all
}

/// What a site is answered about its own probes now.
fn answers(world: &mut World, site: usize) -> Vec<Answer> {
    world.ask(site);
    settle(world);
    world.sites[site].answers.clone()
}

fn sent_since(world: &World, from: usize) -> Vec<Kind> {
    world.sent[from..].iter().map(|message| message.kind).collect()
}

#[test]
fn answers_follow_the_gallery_as_if_it_had_been_so_from_the_start() {
    let mut world = serving(4, 3);
    let before = answers(&mut world, 2);
    let changed = |world: &World| gallery(world, 0, "101", &["100", "104"]);

    // One image less and two more at one site: what goes out is these three.
    let (from, update) = (world.sent.len(), changed(&world));
    world.site_calls(0, |p| p.submit_gallery(update));
    settle(&mut world);
    assert_eq!(sent_since(&world, from), [Kind::Withdraw, Kind::KernelUpload]);
    let upload = &world.sent[from + 1];
    assert!(upload.bytes.len() < 3 * 4 * 12 + 400, "{} bytes for two images", upload.bytes.len());
    let after = answers(&mut world, 2);
    assert_ne!(before, after);

    // The same gallery again: nothing to say.
    let (from, again) = (world.sent.len(), changed(&world));
    world.site_calls(0, |p| p.submit_gallery(again));
    assert_eq!(world.sent.len(), from);

    // Another consortium had that gallery from the start.
    let mut other = World::new(3, 4, |plan| {
        plan.kernel = Some(KernelPlan { normalisation: domain::Normalisation::Z(0.5), ..toy_kernel() });
    });
    other.manual_kernel = true;
    other.start();
    for _ in 0..10_000 {
        if other.queue.is_empty() {
            break;
        }
        other.deliver();
    }
    for site in 0..3 {
        let images = if site == 0 { changed(&other) } else { gallery(&other, site, "", &[]) };
        other.site_calls(site, |p| p.submit_gallery(images));
    }
    settle(&mut other);
    assert_eq!(answers(&mut other, 2), after, "to the last bit");

    // A corrected diagnosis replaces the label and leaves the number of images as it was.
    let images = world.coordinator.as_ref().unwrap().gallery_len();
    let mut corrected = changed(&world);
    corrected[0].syndrome = id("104");
    world.site_calls(0, |p| p.submit_gallery(corrected));
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), images);
    assert_ne!(answers(&mut world, 2), after);
}

#[test]
fn what_a_killed_site_could_not_say_is_said_when_it_is_back() {
    let mut world = serving(5, 3);
    let whole = world.coordinator.as_ref().unwrap().gallery_len();
    // Killed when it had saved and nothing had left: a withdrawal, a change, and the gallery is whole again.
    let (image, _, _) = images(1, &world.sites[1].holdings, false).remove(0);
    world.site_calls(1, |p| p.withdraw(&[image]));
    let update = gallery(&world, 1, "100", &["102"]);
    world.site_calls(1, |p| p.submit_gallery(update.clone()));
    world.queue.clear();
    world.kill(1);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole);
    world.manual_kernel = true;
    world.revive(1);
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole - 1, "the withdrawal is made up for");
    // The host is asked for the gallery, of which the coordinator lacks an image.
    world.site_calls(1, |p| p.submit_gallery(update));
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole);
}

#[test]
fn a_coordinator_that_was_set_back_is_told_again_what_was_withdrawn() {
    let mut world = serving(6, 3);
    let old = world.coordinator.as_ref().unwrap().snapshot();
    let whole = world.coordinator.as_ref().unwrap().gallery_len();
    let (image, _, _) = images(1, &world.sites[1].holdings, false).remove(0);
    world.site_calls(1, |p| p.withdraw(std::slice::from_ref(&image)));
    settle(&mut world);
    // The site itself does not bring it again either, whatever its host says.
    world.upload_gallery(1);
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole - 1);
    // From a backup.
    let setup = CoordinatorSetup {
        key: coordinator_key(),
        consortium: consortium().public(),
        roster: world.roster.clone(),
    };
    let (restored, first) = Coordinator::restore(setup, &old).unwrap();
    world.coordinator = Some(restored);
    world.coordinator_does(first);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole);
    world.site_calls(1, |p| p.rejoin());
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole - 1);
}

#[test]
fn a_policy_that_comes_to_forbid_the_kernel_empties_the_sites_gallery() {
    let mut world = serving(7, 3);
    let whole = world.coordinator.as_ref().unwrap().gallery_len();
    let own = world.sites[0].holdings.len();
    world.kill(0);
    world.sites[0].policy.kernel = false;
    world.revive(0);
    settle(&mut world);
    let images = gallery(&world, 0, "", &[]);
    world.site_calls(0, |p| p.submit_gallery(images));
    settle(&mut world);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole - own);
    let refusals = world.refusals.len();
    world.ask(0);
    assert!(world.refusals[refusals].to_string().contains("policy kernel"), "{}", world.refusals[refusals]);
}

/// The consortium admits one site more; nobody but the coordinator is handed the roster.
fn admit(world: &mut World, place: usize) {
    let old = world.roster.verify(&consortium().public()).unwrap();
    let name = SiteName::new(&format!("hospital{place}")).unwrap();
    world.roster = old.with_site(name, site_key(place as u8).public()).unwrap().sign(&consortium());
    world.add_site(place, holdings(place));
    let signed = world.roster.clone();
    let actions = world.coordinator.as_mut().unwrap().adopt_roster(&signed).unwrap();
    world.coordinator_does(actions);
}

#[test]
fn a_newcomer_comes_in_while_the_kernel_serves() {
    let mut world = serving(8, 4);
    let before = answers(&mut world, 1);
    admit(&mut world, 4);
    settle(&mut world);
    for site in 0..4 {
        let pinned = world.sites[site].pinned.as_ref().unwrap();
        assert_eq!(pinned, &world.roster, "hospital{site} pins the roster it was told of");
    }
    assert_eq!(world.sites[4].adopted.as_ref().expect("adopted").trained.len(), 5);
    world.upload_gallery(4);
    settle(&mut world);
    assert_eq!(world.sites[4].answers.len(), 2 * world.sites[4].holdings.len());
    assert_ne!(answers(&mut world, 1), before, "its gallery counts in what others are answered");

    // A second one, and the first is killed meanwhile.
    world.kill(4);
    admit(&mut world, 5);
    settle(&mut world);
    assert!(world.sites[5].adopted.is_some());
    world.revive(4);
    settle(&mut world);
    assert!(!answers(&mut world, 4).is_empty(), "it goes on where it was");
}

#[test]
fn nobody_comes_in_without_a_members_approval() {
    let mut world = serving(9, 4);
    world.approves = false;
    let whole = world.coordinator.as_ref().unwrap().gallery_len();
    let from = world.sent.len();
    admit(&mut world, 4);
    settle(&mut world);
    assert!(world.sites[4].adopted.is_none());
    assert!(!sent_since(&world, from).contains(&Kind::KeyGift));
    assert!(world.notices.iter().any(|notice| notice == "hospital4 asks to join"));
    // It has no key, no weights, and no say.
    let refusals = world.refusals.len();
    world.upload_gallery(4);
    world.ask(4);
    assert_eq!(world.refusals.len(), refusals + 2);
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), whole);

    // Everybody is restarted; then a person says yes.
    world.kill(4);
    world.revive(4);
    for site in 0..4 {
        world.kill(site);
        world.revive(site);
    }
    settle(&mut world);
    let name = SiteName::new("hospital4").unwrap();
    world.site_calls(2, |p| p.approve(&name));
    settle(&mut world);
    assert!(world.sites[4].adopted.is_some());
}

#[test]
fn a_newcomer_that_is_killed_while_it_joins_joins_all_the_same() {
    for steps in 0..12 {
        let mut world = serving(10, 4);
        admit(&mut world, 4);
        for _ in 0..steps {
            if !world.queue.is_empty() {
                world.deliver();
            }
        }
        // What was on its way to it is lost with it, as is what it had not yet said.
        world.kill(4);
        world.queue.retain(|message| ![message.from, message.to].contains(&Party::Site(SiteIndex(4))));
        let saved = world.coordinator.as_ref().unwrap().snapshot();
        world.revive(4);
        settle(&mut world);
        if world.sites[4].adopted.is_none() {
            // It had not even heard of the roster: the coordinator tells it when it is started again.
            let setup = CoordinatorSetup {
                key: coordinator_key(),
                consortium: consortium().public(),
                roster: world.roster.clone(),
            };
            let (restored, first) = Coordinator::restore(setup, &saved).unwrap();
            world.coordinator = Some(restored);
            world.coordinator_does(first);
            settle(&mut world);
        }
        assert!(world.sites[4].adopted.is_some(), "after {steps} messages");
        world.upload_gallery(4);
        settle(&mut world);
        assert!(!world.sites[4].answers.is_empty(), "after {steps} messages");
    }
}
