//! Where the answer to a request is: in the store, in a flight under way or led from here, in slices, or nowhere.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use atoll_overlay::Key;
use atoll_store::{Object, Tier};
use http::{HeaderMap, header};

use crate::{
    body::Part,
    cache::{Cache, Negative, store_key},
    clock,
    conditions::{Ranged, range},
    config::Ranges,
    deliver::Links,
    fairness::Leave,
    fetch::{self, Mode, Stale},
    flight::{Answer, Content, End, Joined, Lead, Waiter},
    found::{Found, OldCopy, Vain},
    freshness,
    meta::Meta,
    origin::Upstream,
    part,
    reason::{Failure, Forwarded, Reason},
    receive::{Asked, CONDITIONS, upgraded},
    reference::Reference,
    slices::{self, Served, Sliced},
    trace::Tracer,
    variants::is_for_all,
    wanted::Wanted,
    wish::Use,
};

/// What the store has for a request.
struct Stocked {
    key: Key,
    copy: Option<(Object, Meta)>,
    varies: bool,
}

impl Stocked {
    /// Why the origin is asked, if it is.
    const fn forwarded(&self, asked: &Asked) -> Forwarded {
        match (&self.copy, self.varies) {
            (Some(_), _) if asked.wish.origin_judges => Forwarded::Request,
            (Some(_), _) => Forwarded::Stale,
            (None, true) => Forwarded::VaryMiss,
            (None, false) => Forwarded::UriMiss,
        }
    }

    /// For a trace.
    fn described(&self, cache: &Cache, wanted: &Wanted) -> String {
        let variant = if self.varies { ", of the variant that these fields select" } else { "" };
        let Some((object, meta)) = &self.copy else { return format!("nothing{variant}") };
        let (fresh, age) = (cache.lifetime(wanted.site.as_deref(), meta).fresh, meta.age(clock::now()));
        let tier = if object.tier() == Tier::Memory { "RAM" } else { "disk" };
        let purged = if object.soft_purged() { ", purged" } else { "" };
        format!(
            "a copy in {tier}{variant}: {} bytes, {} s old, fresh for {} s{purged}",
            object.len(),
            age.as_secs(),
            fresh.as_secs()
        )
    }
}

async fn stock(cache: &Cache, wanted: &Wanted) -> Stocked {
    let mut key = wanted.url.key();
    let mut varies = false;
    // At most two: the URL's own place, and the variant's that it points to.
    for _ in 0..2 {
        let Some(object) = cache.store.get(&store_key(key)).await else { break };
        let Some(meta) = Meta::decode_stored(&object.head().metadata) else { break };
        if meta.varies_by.is_empty() {
            let same = meta.url == wanted.url.to_string() && (varies || is_for_all(&meta));
            return Stocked { key, copy: same.then_some((object, meta)), varies };
        }
        if varies {
            break;
        }
        varies = true;
        key = wanted.variant(&meta.varies_by);
        if !meta.variants.contains(&key) {
            break;
        }
        if meta.variants.len() > 1 {
            cache.chosen.put(key, tokio::time::Instant::now(), CHOSEN);
        }
    }
    Stocked { key, copy: None, varies }
}

pub(crate) async fn lookup(cache: &Arc<Cache>, asked: &Asked) -> Found {
    let mut wanted = Wanted {
        key: asked.url.key(),
        url: asked.url.clone(),
        upstream: asked.upstream.clone(),
        fields: Arc::clone(&asked.fields),
        site: asked.site.clone(),
        interim: asked.interim.clone(),
        cut: None,
        trace: asked.trace.clone(),
    };
    for round in 1..=ROUNDS {
        if !matches!(asked.client.links, Links::Site) && wanted.url != upgraded(cache, wanted.url.clone()) {
            wanted.url = upgraded(cache, wanted.url);
            wanted.upstream = Upstream::of(&wanted.url, wanted.upstream.exempt);
            if let Ok(host) = wanted.url.authority().try_into() {
                Arc::make_mut(&mut wanted.fields).insert(header::HOST, host);
            }
        }
        let stocked = stock(cache, &wanted).await;
        wanted.key = stocked.key;
        asked.trace.note("store", || stocked.described(cache, &wanted));
        let mut forwarded = stocked.forwarded(asked);
        let stale = match stocked.copy.filter(|_| !asked.wish.origin_judges) {
            Some((object, meta)) => match hit(cache, asked, &wanted, object, meta) {
                Hit::Found(found) => return found,
                Hit::Stale(stale, true) => {
                    forwarded = Forwarded::Request;
                    Some(stale)
                }
                Hit::Stale(stale, false) => Some(stale),
            },
            None => None,
        };
        let parts = asked.site.as_ref().is_some_and(|site| site.rules.ranges == Ranges::Part) && stale.is_none();
        let parts = parts && !asked.wish.origin_judges;
        if parts && let Some(found) = part::stored(cache, asked, wanted.key).await {
            return found;
        }
        if asked.wish.only_if_cached {
            return Found::Failed(Failure::OnlyIfCached, None);
        }
        if let Some(negative) = cache.spared(&wanted.key) {
            asked.trace.note("flight", || "the origin failed a moment ago: it is spared for now".to_owned());
            return match (stale, negative) {
                // The origin is well, and says no.
                (_, Negative::Answer(answer)) if answer.meta.status.is_client_error() => Found::Repeated(answer),
                (Some(stale), _) if stale.if_error => stale.instead(None),
                (_, Negative::Answer(answer)) => Found::Repeated(answer),
                (_, Negative::Failure(failure)) => Found::Failed(failure, Some(Reason::Negative)),
            };
        }
        if asked.stored_only.is_some() {
            return match stale {
                Some(stale) if stale.if_error => stale.found(Reason::Quota),
                Some(_) | None => Found::Failed(Failure::OverQuota, Some(Reason::Quota)),
            };
        }
        if asked.client.head && asked.site.is_some() {
            return Found::AskHead(forwarded, stale.filter(|stale| stale.if_error).map(Box::new));
        }
        let turn = Turn { asked, wanted: &wanted, forwarded, round };
        if let Some(found) = turn.fly(cache, stale).await {
            return found;
        }
    }
    Found::Failed(Failure::Internal, None)
}

enum Hit {
    Found(Found),
    /// Not to be used before the origin was asked; whether only this request wants that.
    Stale(OldCopy, bool),
}

/// The store has a copy: fresh, good enough while it is renewed, or stale.
fn hit(cache: &Arc<Cache>, asked: &Asked, wanted: &Wanted, object: Object, meta: Meta) -> Hit {
    let lifetime = cache.lifetime(wanted.site.as_deref(), &meta);
    let age = meta.age(clock::now());
    let ttl = seconds(lifetime.fresh) - seconds(age);
    let use_ = match asked.wish.judge(lifetime, age) {
        Use::Send(_) | Use::SendAndRenew if object.soft_purged() || cache.purges.doubts(meta.received) => {
            Use::Renew { if_error: lifetime.if_error > Duration::ZERO, asked_for: false }
        }
        use_ => use_,
    };
    match use_ {
        Use::Send(reason) => {
            if reason.is_none()
                && let Some(announcer) = cache.announcer()
            {
                let left = lifetime.fresh.saturating_sub(age);
                announcer.hit(wanted.key, left, || Reference::of_copy(&meta, &object));
            }
            Hit::Found(Found::Stored { object, meta, ttl, reason, asked: None })
        }
        Use::SendAndRenew => {
            if cache.spared(&wanted.key).is_none()
                && let Joined::Lead(lead) = cache.flights.join(wanted.key)
            {
                let stale = Stale { meta: meta.clone(), key: wanted.key };
                let wanted = Wanted { interim: None, trace: Tracer::default(), ..wanted.clone() };
                fetch::lead(cache, lead, wanted, Some(stale), Mode::Shared);
            }
            Hit::Found(Found::Stored { object, meta, ttl, reason: Some(Reason::StaleWhileRevalidate), asked: None })
        }
        Use::Renew { if_error, asked_for } => {
            // An error does not stand in for another.
            let if_error = if_error && !freshness::is_server_error(meta.status);
            Hit::Stale(OldCopy { object, meta, key: wanted.key, ttl, if_error }, asked_for)
        }
    }
}

/// One look at a request.
struct Turn<'a> {
    asked: &'a Asked,
    wanted: &'a Wanted,
    forwarded: Forwarded,
    round: usize,
}

impl Turn<'_> {
    /// Joins the flight for the key or leads one, and waits for its head. `None`: look again.
    async fn fly(&self, cache: &Arc<Cache>, stale: Option<OldCopy>) -> Option<Found> {
        let parts = self.asked.site.as_ref().is_some_and(|site| site.rules.ranges == Ranges::Part);
        let part = parts && stale.is_none() && self.asked.client.fields.contains_key(header::RANGE);
        if stale.is_none() && self.asked.client.fields.contains_key(header::RANGE) {
            if self.asked.unearned.as_ref().is_some_and(|tab| tab.leave() != Leave::All) {
                return Some(Found::Failed(Failure::OverQuota, Some(Reason::Quota)));
            }
            match Box::pin(slices::serve(cache, self.asked, self.wanted, self.round == 1)).await {
                Served::Found(sliced) => {
                    self.charge(cache, &sliced);
                    return Some(Found::Sliced(sliced));
                }
                Served::Flown(waiter, answer) => return self.taken(waiter, answer, false),
                Served::Repeated(answer) => return Some(Found::Repeated(answer)),
                Served::Failed(failure) => return Some(Found::Failed(failure, None)),
                Served::Again => return None,
                Served::No => {}
            }
        }
        // What may be for one alone is shared with nobody before its answer says that it may be.
        let wish = &self.asked.wish;
        let own = part || self.asked.personal || wish.no_store || wish.origin_judges;
        let alone = own || cache.passing.get(&self.wanted.key).is_some();
        let (waiter, collapsed) = if alone {
            self.asked.trace.note("flight", || "one of its own: the answer may be for this client alone".to_owned());
            let lead = cache.flights.solo();
            let waiter = lead.follow()?;
            let mode = if self.asked.wish.no_store { Mode::Unstored } else { Mode::Alone };
            self.lead(cache, lead, stale.as_ref(), mode, part);
            (waiter, false)
        } else {
            match cache.flights.join(self.wanted.key) {
                Joined::Full => return Some(Found::Failed(Failure::Busy, None)),
                Joined::Follow(mut waiter) => {
                    self.asked.trace.note("flight", || "joins the fetch that is under way".to_owned());
                    // All is sent, and only the end is not said yet: what was asked for after that is a new request.
                    if self.round < ROUNDS && waiter.has_landed() {
                        waiter.ended().await;
                        return None;
                    }
                    (waiter, true)
                }
                Joined::Lead(lead) => {
                    if self.has_landed(cache, stale.as_ref()).await {
                        lead.finish(End::Again);
                        return None;
                    }
                    let waiter = lead.follow()?;
                    self.asked.trace.note("flight", || "leads the fetch, for all who come meanwhile".to_owned());
                    self.lead(cache, lead, stale.as_ref(), Mode::Shared, false);
                    (waiter, false)
                }
            }
        };
        self.flown(cache, waiter, collapsed, stale).await
    }

    /// Of slices that were not there two are fetched at most for what one request does not take of them.
    fn charge(&self, cache: &Cache, sliced: &Sliced) {
        let Some(tab) = self.asked.unearned.as_ref().filter(|_| sliced.status.forwarded.is_some()) else { return };
        let taken = match range(&self.asked.client.fields, &sliced.meta.fields, sliced.meta.length) {
            Ranged::Part(part) => part.length().unwrap_or_default(),
            Ranged::Parts(parts) => parts.into_iter().filter_map(Part::length).sum(),
            Ranged::Whole | Ranged::Unsatisfiable => return,
        };
        let over = (2 * cache.config.slices.size).saturating_sub(taken);
        tab.charge(usize::try_from(over).unwrap_or(usize::MAX));
    }

    /// Whether a flight landed between our look into the store and now. Not asked in the last round: where copies go stale at
    /// once, others land for ever.
    async fn has_landed(&self, cache: &Cache, stale: Option<&OldCopy>) -> bool {
        let landed = self.round < ROUNDS;
        landed && stock(cache, self.wanted).await.copy.is_some_and(|(_, meta)| stale.is_none_or(|it| it.meta != meta))
    }

    fn lead(&self, cache: &Arc<Cache>, lead: Lead, stale: Option<&OldCopy>, mode: Mode, part: bool) {
        let mut wanted = self.wanted.clone();
        let client = &self.asked.client.fields;
        if part {
            copy(client, &mut wanted.fields, &[header::RANGE, header::IF_RANGE]);
        }
        // Where there is nothing to compare, the origin may do so. Once only: those who wait get nothing out of it.
        if self.asked.site.is_some() && stale.is_none() && (self.round == 1 || mode != Mode::Shared) {
            copy(client, &mut wanted.fields, &CONDITIONS);
        }
        let stale = stale.map(|stale| Stale { meta: stale.meta.clone(), key: stale.key });
        fetch::lead(cache, lead, wanted, stale, mode);
    }

    async fn flown(&self, cache: &Cache, mut waiter: Waiter, collapsed: bool, stale: Option<OldCopy>) -> Option<Found> {
        let answer = match waiter.answer().await {
            Ok(answer) => answer,
            Err(End::Again | End::Whole) => return None,
            Err(End::Failed(failure)) => {
                return Some(match stale {
                    Some(stale) if stale.if_error && failure.lets_stale_stand_in() => {
                        let vain = Vain::unanswered(self.forwarded, failure);
                        stale.instead(vain.map(|vain| vain.by_another(collapsed)))
                    }
                    Some(_) | None => Found::Failed(failure, None),
                });
            }
        };
        if let Some(stale) = stale
            && stale.if_error
            && freshness::is_failure(answer.meta.status)
        {
            let vain = Vain::answered(self.forwarded, answer.meta.status);
            return Some(stale.instead(vain.map(|vain| vain.by_another(collapsed))));
        }
        if collapsed && cache.purges.took(waiter.born(), &answer.meta) {
            // It was asked for before a purge that means it, and is for those who came before that too.
            cache.flights.give_up(&waiter);
            return None;
        }
        self.taken(waiter, answer, collapsed)
    }

    /// An answer is there: for this request, or only for another.
    fn taken(&self, waiter: Waiter, answer: Arc<Answer>, collapsed: bool) -> Option<Found> {
        if collapsed && !answer.varies_by.is_empty() && self.wanted.variant(&answer.varies_by) != answer.key {
            // Somebody else's variant; the list that tells ours is known by now.
            return None;
        }
        if collapsed && answer.reason.is_some() && !matches!(answer.content, Content::Bytes(_)) {
            // It was asked for in one client's name, and is for that one.
            return None;
        }
        if let Content::Direct(feed) = &answer.content {
            let feed = feed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (meta, reason) = (answer.meta.clone(), answer.reason.unwrap_or(Reason::PassMarked));
            return feed.map(|feed| Found::Passed { meta, feed, reason });
        }
        Some(Found::Flown { waiter, answer, collapsed, forwarded: self.forwarded })
    }
}

fn copy(from: &HeaderMap, to: &mut Arc<HeaderMap>, names: &[http::HeaderName]) {
    for name in names {
        for value in from.get_all(name) {
            Arc::make_mut(to).append(name, value.clone());
        }
    }
}

pub(crate) fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// Which variant was chosen when is remembered for so long.
const CHOSEN: Duration = Duration::from_secs(7 * 86_400);

/// Looks at one request at most: each ends with more known than before (a list of varying fields, https, a pass mark).
const ROUNDS: usize = 5;
