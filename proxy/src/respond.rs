//! From where an answer was found to the response: what Cache-Status says of it, and what is withheld of a copy.

use std::sync::Arc;

use atoll_store::Tier;
use http::{Response, StatusCode};

use crate::{
    body::{Body, SMALL},
    cache::Cache,
    deliver::{Given, deliver, refuse},
    fetch::fresh_for,
    flight::{Answer, Content, Waiter},
    found::{Found, Vain},
    lookup::seconds,
    meta::Meta,
    reason::{CacheStatus, Failure, Forwarded, Reason, Source},
    receive::Asked,
    step::Told,
};

/// The response, and what is counted of it.
pub(crate) async fn respond(cache: &Cache, asked: Box<Asked>, found: Found) -> (Response<Body>, Option<Told>) {
    let (meta, given, status, told) = match found {
        Found::Stored { object, mut meta, ttl, reason, asked: vain } => {
            meta.withhold();
            let source = if object.tier() == Tier::Memory { Source::Memory } else { Source::Disk };
            let collapsed = vain.as_ref().is_some_and(|vain| vain.collapsed);
            let told = Told { source: Some(source), stale: reason.is_some(), collapsed, ..Told::default() };
            (Head::Own(Box::new(meta)), Given::Object(object), after(CacheStatus::hit(source, ttl, reason), vain), told)
        }
        Found::Flown { waiter, answer, collapsed, forwarded } => {
            match flown(cache, &asked, waiter, (answer, collapsed, forwarded)).await {
                Ok(flown) => flown,
                Err((failure, status)) => {
                    let why = format!("nothing came but a head: {failure}");
                    return (refuse(failure, &why, Some(&status)), Some(Told::default()));
                }
            }
        }
        Found::Passed { meta, feed, reason } => {
            let status = bypass(Some(meta.status), Some(Source::Origin), reason);
            (
                Head::Own(Box::new(meta)),
                Given::Feed(feed),
                status,
                Told { source: Some(Source::Origin), passed: true, ..Told::default() },
            )
        }
        Found::Repeated(answer) => {
            let Content::Bytes(bytes) = &answer.content else {
                return (refuse(Failure::Internal, "no answer is kept", None), Some(Told::default()));
            };
            let status = CacheStatus { reason: Some(Reason::Negative), ..CacheStatus::hit(Source::Memory, 0, None) };
            let bytes = bytes.clone();
            (Head::Of(answer), Given::Bytes(bytes), status, Told::default())
        }
        Found::Failed(failure, reason) => {
            let status = reason.map(|reason| bypass(None, None, reason));
            let why = format!("{} could not be fetched: {failure}", asked.url.host());
            return (refuse(failure, &why, status.as_ref()), Some(Told::default()));
        }
        Found::Sliced(sliced) => {
            let (meta, status) = (sliced.meta.clone(), sliced.status.clone());
            let told = Told { source: status.source, ..Told::default() };
            (Head::Own(Box::new(meta)), Given::Slices(sliced), status, told)
        }
        Found::Part(part) => return Box::pin(part.respond(&asked)).await,
        Found::AskHead(..) => {
            return (refuse(Failure::Internal, "a HEAD was not asked", None), Some(Told::default()));
        }
    };
    match deliver(&cache.zone, &asked.url, &asked.client, meta.get(), given, &status).await {
        Ok(response) => (response, Some(told)),
        Err(failure) => (refuse(failure, "the copy could not be read", Some(&status)), Some(Told::default())),
    }
}

/// What a flight brings; an error if that is a head alone.
async fn flown(
    cache: &Cache,
    asked: &Asked,
    mut waiter: Waiter,
    (answer, collapsed, forwarded): (Arc<Answer>, bool, Forwarded),
) -> Result<(Head, Given, CacheStatus, Told), (Failure, CacheStatus)> {
    let begun = if asked.client.head { Ok(()) } else { begun(&mut waiter, &answer).await };
    let revalidated = matches!(answer.content, Content::Stored(_));
    let status = CacheStatus {
        forwarded: Some(forwarded),
        // What the next one said, not what the client is told [RFC 9211 2.3].
        status: Some(if revalidated { StatusCode::NOT_MODIFIED } else { answer.meta.status }),
        ttl: Some(seconds(fresh_for(cache, asked.site.as_deref(), &answer.meta))),
        stored: answer.reason.is_none(),
        collapsed,
        source: Some(answer.source),
        reason: answer.reason,
    };
    if let Err(failure) = begun {
        return Err((failure, CacheStatus { stored: false, ttl: None, ..status }));
    }
    let source = Some(answer.source);
    let told = Told { source, collapsed, revalidated, passed: answer.reason.is_some(), ..Told::default() };
    let head = if collapsed || answer.source != Source::Origin {
        let mut meta = answer.meta.clone();
        meta.withhold();
        Head::Own(Box::new(meta))
    } else {
        Head::Of(Arc::clone(&answer))
    };
    Ok((head, Given::Flight(waiter, answer), status, told))
}

/// The head of an answer.
enum Head {
    Own(Box<Meta>),
    /// That of one which others have too.
    Of(Arc<Answer>),
}

impl Head {
    fn get(&self) -> &Meta {
        match self {
            Self::Own(meta) => meta,
            Self::Of(answer) => &answer.meta,
        }
    }
}

/// What is said of a copy that stands in for what the origin was asked for.
fn after(status: CacheStatus, vain: Option<Vain>) -> CacheStatus {
    match vain {
        Some(Vain { forwarded, status: answered, collapsed }) => {
            CacheStatus { forwarded: Some(forwarded), status: answered, collapsed, ..status }
        }
        None => status,
    }
}

/// What is short goes out in one piece with its head, and is most often there a moment later. An error if none of it will ever be.
async fn begun(waiter: &mut Waiter, answer: &Answer) -> Result<(), Failure> {
    let short = answer.meta.length.is_some_and(|length| (1..=SMALL).contains(&length));
    if short && matches!(answer.content, Content::Filling(_)) { waiter.begun().await } else { Ok(()) }
}

/// What is said of what no copy answers; without a status where the next one said nothing [RFC 9211 2.3].
pub(crate) fn bypass(code: Option<StatusCode>, source: Option<Source>, reason: Reason) -> CacheStatus {
    CacheStatus {
        forwarded: Some(Forwarded::Bypass),
        status: code,
        ttl: None,
        stored: false,
        collapsed: false,
        source,
        reason: Some(reason),
    }
}
