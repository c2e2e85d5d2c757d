//! One flight's answer from the origin: stored, confirmed, relayed to one client alone, or an error that is remembered.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use atoll_overlay::Marker;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};

use crate::{
    cache::{Negative, store_key},
    clock,
    conditions::{if_changed, is_changed_strong, strong_equal, weak_equal},
    deliver::BY_HTTP_10,
    fetch::{Fetch, Mode, Outcome, Refused, Stale, wide},
    flight::{Answer, Content, End},
    freshness::{self, Asker, Vary},
    home,
    keeper::Kept,
    kept::may_be_of,
    meta::{Meta, strip_hop_by_hop, validator},
    origin::{OriginAnswer, OriginBody, OriginRequest},
    part::{self, Stretch},
    plan::{Cut, Plan},
    purge,
    reason::{Failure, Reason, Source},
    receive::CONDITIONS,
    reference::Reference,
    variants::Listed,
    vouch::{Groups, Vouched},
};

impl Fetch {
    /// Asks the origin: for all of it, for the rest, or whether the stale copy is still good.
    pub(crate) async fn ask_origin(&mut self) -> Outcome {
        let mut fields = Arc::clone(&self.wanted.fields);
        if let Some(filling) = &self.filling {
            self.ask_what_follows(filling, Arc::make_mut(&mut fields));
        } else if let Some(stale) = self.stale.as_ref().filter(|_| !self.unconditional) {
            if_changed(Arc::make_mut(&mut fields), &stale.meta.fields);
        }
        let begun = if self.filling.is_none() { self.begun().await } else { None };
        if let Some(begun) = &begun {
            Self::ask_rest(begun, Arc::make_mut(&mut fields));
        }
        let asked = clock::now();
        let got = {
            let mut request = OriginRequest::get(self.wanted.url.path(), &fields);
            request.interim = self.wanted.interim.clone();
            let get = std::pin::pin!(self.cache.origin.ask(&self.wanted.upstream, request));
            self.keeper.alive(&self.lead, get).await
        };
        let answer = match got {
            Kept::Ready(Ok(answer)) => {
                self.wanted.trace.note("origin", || {
                    let length = answer.length.map_or_else(|| "unknown".to_owned(), |length| length.to_string());
                    format!("answers {}, length {length}", answer.status)
                });
                answer
            }
            Kept::Ready(Err(failure)) if self.filling.is_some() => return Outcome::Broken(failure),
            Kept::Ready(Err(failure)) => return Outcome::End(End::Failed(failure)),
            Kept::Superseded(value) => return Outcome::Superseded(value),
        };
        if self.filling.is_some() {
            return Box::pin(self.follow_on(answer)).await;
        }
        match begun {
            Some(begun) => Box::pin(self.rest(begun, answer, asked)).await,
            None if !self.unconditional && self.confirms_another(&answer) => {
                // Nothing may be made of it [RFC 9111 4.3.4], and the client is still without an answer.
                self.unconditional = true;
                drop(answer);
                Box::pin(self.ask_origin()).await
            }
            None => Outcome::End(self.answered(answer, asked).await),
        }
    }

    /// Whether an answer says that something else is still good than what was asked about.
    fn confirms_another(&self, answer: &OriginAnswer) -> bool {
        let Some(stale) = self.stale.as_ref().filter(|_| answer.status == StatusCode::NOT_MODIFIED) else {
            return false;
        };
        let mut fields = answer.fields.clone();
        dated(&mut fields, clock::now());
        !same_entity(&stale.meta.fields, &fields) || !may_be_of(&fields, stale)
    }

    /// The origin answered a whole or conditional request.
    pub(crate) async fn answered(&mut self, mut answer: OriginAnswer, asked: SystemTime) -> End {
        let received = clock::now();
        strip_hop_by_hop(&mut answer.fields);
        dated(&mut answer.fields, received);
        came_by(answer.version, &mut answer.fields);
        if self.wanted.site.is_none() && Box::pin(home::note(&self.cache, &self.wanted.url, &answer.fields)).await {
            self.keeper.pass(Marker::Pass(self.cache.config.freshness.pass));
            return End::Failed(Failure::OptedOut);
        }
        if answer.status == StatusCode::NOT_MODIFIED && self.stale.is_some() {
            return Box::pin(self.confirmed(answer, asked)).await;
        }
        match answer.status {
            StatusCode::NOT_MODIFIED if !self.is_conditional() => return End::Failed(Failure::Protocol),
            StatusCode::PARTIAL_CONTENT if !self.is_ranged() => return End::Failed(Failure::Protocol),
            status if status.is_informational() => return End::Failed(Failure::Protocol),
            _ => {}
        }
        // An own site's client follows it by itself: it may have come in clear, and its origin knows that.
        if self.wanted.site.is_none() && self.wanted.is_sent_to_https(answer.status, &answer.fields) {
            self.cache.upgraded.put(self.wanted.url.host().to_owned(), (), UPGRADE_KEPT);
            self.keeper.pass(Marker::Pass(UPGRADE_PASS));
            return End::Again;
        }
        let length = if answer.status == StatusCode::NO_CONTENT { Some(0) } else { answer.length };
        let url = self.wanted.url.to_string();
        let meta = Meta {
            validator: validator(&url, &answer.fields, length, rand::random()),
            url,
            status: answer.status,
            initial_age: freshness::initial_age(&answer.fields, asked, received),
            fields: answer.fields,
            received,
            length,
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: Vouched::default(),
        };
        self.judged(meta, answer.body).await
    }

    /// What becomes of an answer: stored, or told to one, or to everybody for a moment.
    async fn judged(&mut self, meta: Meta, body: OriginBody) -> End {
        let storable = freshness::storable(meta.status, &meta.fields, self.asker());
        match meta.status {
            StatusCode::NOT_MODIFIED => return self.unshared(meta, body, Reason::Conditional),
            _ if self.mode == Mode::Unstored => return self.unshared(meta, body, Reason::RequestNoStore),
            StatusCode::PARTIAL_CONTENT => return Box::pin(self.partial(meta, body)).await,
            status if !freshness::is_server_error(status) && self.wanted.cut.is_some() => {
                if let Some(Cut::Slice(plan, _)) = self.wanted.cut.clone() {
                    return self.changed(&plan).await;
                }
                self.uncut();
            }
            // What an error says to one who showed cookies is not for others.
            status if freshness::is_server_error(status) && storable.is_err() && self.asker().cookies => {
                return self.unshared(meta, body, Reason::KeptGood);
            }
            status if freshness::is_server_error(status) && (storable.is_err() || self.replaces_good()) => {
                return Box::pin(self.origin_error(meta, body)).await;
            }
            _ => {}
        }
        // What is said of a condition or a range is not said of all of it.
        match meta.status {
            StatusCode::PRECONDITION_FAILED if self.is_conditional() => {
                return self.unshared(meta, body, Reason::Conditional);
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.is_ranged() => return self.unshared(meta, body, Reason::Partial),
            _ => {}
        }
        if meta.status.is_client_error() && self.replaces_good() {
            return match storable {
                Ok(()) => Box::pin(self.refused(meta, body)).await,
                Err(_) => self.unshared(meta, body, Reason::KeptGood),
            };
        }
        if let Err(reason) = storable {
            return self.unshared(meta, body, reason);
        }
        if self.wanted.key != self.wanted.url.key() || Vary::of(&meta.fields) != Vary::Nothing {
            Box::pin(self.placed(&meta)).await;
        }
        if let Err(refused) = self.begin(meta, Source::Origin) {
            return self.unstored(refused, body);
        }
        self.cache.passing.forget(&self.wanted.key);
        self.pump(body, 0).await
    }

    /// Whether the origin was asked under a client's condition.
    fn is_conditional(&self) -> bool {
        CONDITIONS.iter().any(|name| self.wanted.fields.contains_key(name))
    }

    /// Whether it was asked for a client's range.
    fn is_ranged(&self) -> bool {
        self.wanted.fields.contains_key(header::RANGE)
    }

    /// What of the request bears on storing its answer.
    pub(crate) fn asker(&self) -> Asker {
        Asker::of(&self.wanted.fields, self.wanted.site.as_deref())
    }

    /// Whether a success is stored, which this answer would replace.
    fn replaces_good(&self) -> bool {
        self.stale.as_ref().is_some_and(|stale| stale.meta.status.is_success())
    }

    /// A part of the whole, as one client asked for it: kept as that part, if it is clear which.
    async fn partial(&mut self, mut meta: Meta, body: OriginBody) -> End {
        let storable = freshness::storable(StatusCode::OK, &meta.fields, self.asker());
        if let Some(cut) = self.wanted.cut.clone() {
            return self.slice(cut, meta, body, storable.is_ok()).await;
        }
        // Where the framing does not say how long it is, the stretch does.
        let known = Stretch::of(&meta.fields).filter(|it| meta.length.is_none_or(|length| length == it.length()));
        meta.length = meta.length.or_else(|| known.map(Stretch::length));
        let varies = Vary::of(&meta.fields) != Vary::Nothing;
        if storable.is_err() || known.is_none() || varies {
            return self.unshared(meta, body, storable.err().unwrap_or(Reason::Partial));
        }
        if let Some(plan) = Plan::of(self.wanted.key, &meta, &self.cache.config.slices) {
            self.store_plan(&plan).await;
        }
        let first = known.map_or(0, |stretch| stretch.first);
        self.wanted.key = part::place(&self.cache, self.wanted.key, first).await;
        match self.begin(meta, Source::Origin) {
            Ok(()) => self.pump(body, 0).await,
            Err(refused) => self.unstored(refused, body),
        }
    }

    /// What the store does not take in is passed on.
    fn unstored(&mut self, refused: Refused, body: OriginBody) -> End {
        let reason = match refused.failure {
            Failure::Busy => Reason::NoRoom,
            Failure::BodyTooLarge => Reason::TooLarge,
            _ => Reason::StoreFailed,
        };
        self.unshared(*refused.meta, body, reason)
    }

    /// A slice, or what is to be cut into slices.
    async fn slice(&mut self, cut: Cut, part: Meta, body: OriginBody, storable: bool) -> End {
        let varies = Vary::of(&part.fields) != Vary::Nothing;
        let meta = match cut {
            Cut::First(whole) => match self.first_contact(whole, part.clone(), storable && !varies).await {
                Ok(meta) => {
                    self.uncut();
                    meta
                }
                Err(Some(_)) => part,
                Err(None) => {
                    self.keeper.pass(Marker::Pass(self.cache.config.freshness.pass));
                    return End::Again;
                }
            },
            Cut::Slice(plan, number) if storable && !varies && plan.fits(number, &part) => part,
            Cut::Slice(plan, _) => return self.changed(&plan).await,
        };
        match self.begin(meta, Source::Origin) {
            Ok(()) => self.pump(body, 0).await,
            Err(refused) => {
                self.unkept = Some(Reason::of_broken(refused.failure));
                End::Failed(refused.failure)
            }
        }
    }

    /// What comes is the whole after all.
    fn uncut(&mut self) {
        if let Some(Cut::First(whole)) = self.wanted.cut.take() {
            self.wanted.key = whole;
            self.lead.also(whole);
            for name in [header::RANGE, header::IF_RANGE] {
                Arc::make_mut(&mut self.wanted.fields).remove(name);
            }
        }
    }

    /// The stale copy is still good [RFC 9111 4.3.4].
    async fn confirmed(&mut self, answer: OriginAnswer, asked: SystemTime) -> End {
        let Some(stale) = self.stale.take() else { return End::Failed(Failure::Protocol) };
        let received = clock::now();
        if self.unconditional || !same_entity(&stale.meta.fields, &answer.fields) {
            // It confirms something else than was asked about, or what was not asked: nothing may be made of it [RFC 9111 4.3.4].
            return End::Failed(Failure::Protocol);
        }
        let fields = freshness::freshened(&stale.meta.fields, &answer.fields);
        let initial_age = freshness::initial_age(&answer.fields, asked, received);
        // This node has the head from the origin now, whoever vouches for the body.
        let vouched = stale.meta.vouched.clone().confirmed(self.applied.clone());
        let meta = Meta { fields, received, initial_age, vouched, ..stale.meta.clone() };
        if self.mode == Mode::Unstored {
            return self.confirmed_unshared(meta, stale, Reason::RequestNoStore).await;
        }
        // It may say now that it is for nobody else.
        if let Err(reason) = freshness::storable(meta.status, &meta.fields, self.asker()) {
            return self.confirmed_unshared(meta, stale, reason).await;
        }
        let (stale_meta, old) = (stale.meta.clone(), stale.meta.clone());
        let mut kept = meta.clone();
        kept.withhold_private();
        let expires = self.expires(&meta);
        let tags = purge::bits(purge::place_of(&meta.url), &meta.fields);
        if stale.key != self.wanted.url.key()
            && let Some(names) = Listed::of(&self.cache, self.wanted.url.key()).await.map(|listed| listed.names)
        {
            self.remember_vary(&names, Some((stale.key, expires))).await;
        }
        // What took its place meanwhile is not what was confirmed.
        let asked_about = move |now: &Bytes| Meta::decode_stored(now).is_some_and(|now| now == stale_meta);
        let freshened = self
            .cache
            .store
            .freshen_tagged(
                &store_key(stale.key),
                kept.encode(received),
                Some(expires),
                self.born,
                Some(tags),
                asked_about,
            )
            .await;
        let object = match freshened {
            Ok(Some(object)) => object,
            // Purged, evicted or replaced meanwhile: it is looked at again.
            Ok(None) => return End::Again,
            Err(error) => {
                tracing::warn!(%error, "a renewed answer could not be stored");
                self.unkept = Some(Reason::of_store(&error));
                return End::Failed(Failure::Internal);
            }
        };
        if meta.vouched.body == Groups::Beside {
            self.freshen_groups(stale.key, (old, &kept), expires, tags).await;
        }
        self.cache.recovered(self.wanted.key);
        self.wanted.trace.note("kept", || "the stored copy was confirmed".to_owned());
        self.keeper.whole(stale.key, Reference::of_copy(&meta, &object), || self.fresh_for(&meta));
        let varies_by = freshness::varies_by(&meta.fields);
        let content = Content::Stored(object);
        let answer = Answer { meta, key: stale.key, varies_by, source: Source::Origin, reason: None, content };
        self.lead.head(Arc::new(answer));
        End::Whole
    }

    /// The stale copy is good for this once; the next request finds none, unless it was this request that forbids sharing or storing.
    async fn confirmed_unshared(&mut self, meta: Meta, stale: Stale, reason: Reason) -> End {
        let key = stale.key;
        let Some(object) = self.cache.store.get(&store_key(key)).await else { return End::Again };
        if Meta::decode_stored(&object.head().metadata).is_none_or(|now| now != stale.meta) {
            // Another took its place meanwhile, which was not asked about.
            return End::Again;
        }
        self.wanted.trace.note("kept", || format!("the stored copy was confirmed, for this once: {}", reason.word()));
        let asker = matches!(reason, Reason::Authorization | Reason::Cookie | Reason::RequestNoStore);
        if !asker && let Err(error) = self.cache.store.remove(&store_key(key)).await {
            tracing::warn!(%error, "an answer that is private now could not be removed");
        }
        self.cache.counters.not_stored(reason);
        let (varies_by, content) = (freshness::varies_by(&meta.fields), Content::Stored(object));
        let answer = Answer { meta, key, varies_by, source: Source::Origin, reason: Some(reason), content };
        self.lead.head(Arc::new(answer));
        End::Whole
    }

    /// An error of the origin: small ones are repeated to everyone for a moment, none is stored.
    async fn origin_error(&mut self, mut meta: Meta, mut body: OriginBody) -> End {
        let mut bytes = Vec::new();
        loop {
            match self.keeper.beating(&self.lead, body.next()).await {
                Ok(Some(data)) if bytes.len() + data.len() <= ERROR_BODY => bytes.extend_from_slice(&data),
                Ok(None) => break,
                // Too much to repeat or cut short: the status says enough.
                Ok(Some(_)) | Err(_) => {
                    bytes.clear();
                    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ETAG] {
                        meta.fields.remove(name);
                    }
                    break;
                }
            }
        }
        meta.length = Some(wide(bytes.len()));
        meta.fields.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        self.wanted.trace.note("kept", || "not stored: status".to_owned());
        self.cache.counters.not_stored(Reason::Status);
        let answer = Arc::new(Answer {
            meta,
            key: self.wanted.key,
            varies_by: Vec::new(),
            source: Source::Origin,
            reason: Some(Reason::Status),
            content: Content::Bytes(bytes.into()),
        });
        // Of an own site the first goes to those who waited; one more, and it is the origin's state. Others' origins are spared at
        // once.
        let site = self.wanted.site.is_some();
        if self.mode == Mode::Shared && (!site || self.cache.failing(self.wanted.key)) {
            self.cache.failed(&self.wanted, self.born, Negative::Answer(Arc::clone(&answer)));
        }
        self.lead.head(answer);
        End::Whole
    }

    /// A refusal, while a good copy is stored: nothing takes that one's place [bad-inputs C03]. It is repeated for as long as it is fresh,
    /// but not for longer than a failure; then the origin is asked again whether the copy is good.
    async fn refused(&mut self, mut meta: Meta, mut body: OriginBody) -> End {
        let mut bytes = BytesMut::new();
        loop {
            match self.keeper.beating(&self.lead, body.next()).await {
                Ok(Some(data)) => bytes.extend_from_slice(&data),
                Ok(None) => break,
                Err(failure) => return End::Failed(failure),
            }
            if bytes.len() > ERROR_BODY {
                body.put_back(bytes.freeze());
                return self.unshared(meta, body, Reason::KeptGood);
            }
        }
        if meta.length.is_some_and(|length| length != wide(bytes.len())) {
            return End::Failed(Failure::ResponseIncomplete);
        }
        meta.length = Some(wide(bytes.len()));
        self.wanted.trace.note("kept", || "not stored: kept-good".to_owned());
        self.cache.counters.not_stored(Reason::KeptGood);
        let span = self.fresh_for(&meta).min(self.cache.config.freshness.negative_most);
        let varies_by = freshness::varies_by(&meta.fields);
        let answer = Arc::new(Answer {
            meta,
            key: self.wanted.key,
            varies_by,
            source: Source::Origin,
            reason: Some(Reason::KeptGood),
            content: Content::Bytes(bytes.freeze()),
        });
        let for_all = self.mode == Mode::Shared && answer.varies_by.is_empty() && !self.lead.is_overtaken();
        if for_all && !span.is_zero() {
            self.cache.remember(&self.wanted, self.born, Negative::Answer(Arc::clone(&answer)), span);
        }
        self.lead.head(answer);
        End::Whole
    }

    /// The answer is for one request alone: its body goes to whoever takes it first, the others ask for themselves.
    fn unshared(&mut self, meta: Meta, body: OriginBody, reason: Reason) -> End {
        self.wanted.trace.note("kept", || format!("not stored: {}", reason.word()));
        self.cache.counters.not_stored(reason);
        let span = self.cache.config.freshness.pass;
        // These say something about this request, the others about the thing asked for. A lease that is held still is given back.
        let about_it =
            !matches!(reason, Reason::Conditional | Reason::RequestNoStore | Reason::Partial | Reason::KeptGood);
        if about_it {
            // Those who waited ask for themselves at once, until one of them finds room.
            self.cache.passing.put(self.wanted.key, (), span);
        }
        let content = Content::Direct(std::sync::Mutex::new(Some(body)));
        let (key, source) = (self.wanted.key, Source::Origin);
        let answer = Answer { meta, key, varies_by: Vec::new(), source, reason: Some(reason), content };
        self.lead.head(Arc::new(answer));
        // Others may have room.
        if about_it && reason != Reason::NoRoom {
            self.keeper.pass(Marker::Pass(span));
        }
        End::Whole
    }
}

/// Whether a 304 is about the answer that is stored: a tag that is not stored says that it is not, unless the date of change is a strong
/// validator, and the same. A weak tag may be of what a strong one was stored with, not the other way round [RFC 9111 4.3.4].
fn same_entity(stored: &HeaderMap, update: &HeaderMap) -> bool {
    let changed =
        |fields: &HeaderMap| freshness::date(fields, &header::LAST_MODIFIED).filter(|_| is_changed_strong(update));
    let is_stored = |new: &HeaderValue| {
        let equal = if new.as_bytes().starts_with(b"\"") { strong_equal } else { weak_equal };
        stored.get(header::ETAG).is_some_and(|old| equal(new.as_bytes(), old.as_bytes()))
    };
    update.get(header::ETAG).is_none_or(is_stored) || changed(update).is_some() && changed(update) == changed(stored)
}

/// An answer without a date, or with one that is none, is of the moment it came [RFC 9110 6.6.1].
pub(crate) fn dated(fields: &mut HeaderMap, received: SystemTime) {
    if freshness::date(fields, &header::DATE).is_none()
        && let Ok(date) = httpdate::fmt_http_date(received).try_into()
    {
        fields.insert(header::DATE, date);
    }
}

/// An answer of an older protocol says so in its own Via, which stays with it; all others came by HTTP/1.1, which [`deliver`] says
/// [RFC 9110 7.6.3]. An origin's own line that reads like ours is kept in the longer spelling of the same protocol.
///
/// [`deliver`]: crate::deliver
pub(crate) fn came_by(version: Version, fields: &mut HeaderMap) {
    if let header::Entry::Occupied(mut lines) = fields.entry(header::VIA) {
        for line in lines.iter_mut().filter(|line| **line == BY_HTTP_10) {
            *line = HeaderValue::from_static("HTTP/1.0 atoll");
        }
    }
    if version == Version::HTTP_10 {
        fields.append(header::VIA, BY_HTTP_10);
    }
}

/// A host's redirect to https is remembered so long.
pub(crate) const UPGRADE_KEPT: Duration = Duration::from_secs(3_600);

/// Others find out about the redirect by themselves for so long.
const UPGRADE_PASS: Duration = Duration::from_secs(30);

/// Bytes of an origin's error that are repeated to others.
const ERROR_BODY: usize = 64 << 10;
