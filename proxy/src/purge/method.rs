//! The method `PURGE`, for those who know it from other caches: one URL, from addresses that the configuration names. Soft, or hard
//! with `Atoll-Purge: hard`.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::order::{self, PurgeError, PurgeTarget};
use crate::{
    body::Body,
    cache::Cache,
    deliver::{refuse, text},
    receive::{Origin, Received, receive},
};

/// Answers it: 405 where it is off, 403 to strangers.
pub(crate) async fn purge(cache: &Arc<Cache>, mut request: Request<Option<Incoming>>) -> Response<Body> {
    let allowed = &cache.config.purges.from;
    if allowed.is_empty() {
        cache.counters.refused();
        return refused(StatusCode::METHOD_NOT_ALLOWED, "PURGE is switched off here (from in [proxy.purges])\n");
    }
    let client = request.extensions().get::<Origin>().map(|from| from.client.ip().to_canonical());
    if !client.is_some_and(|client| allowed.iter().any(|range| range.contains(client))) {
        cache.counters.refused();
        return refused(StatusCode::FORBIDDEN, "PURGE is not open to this address\n");
    }
    let hard = request.headers().get(&ATOLL_PURGE).is_some_and(|value| value == "hard");
    *request.method_mut() = Method::GET;
    let url = match receive(cache, request) {
        Ok(Received::Asked(asked)) => asked.url.to_string(),
        Ok(Received::Robots | Received::Linked(_)) => {
            return text(StatusCode::NOT_FOUND, "nothing of this is stored\n");
        }
        Ok(Received::TakenDown(answer)) => return *answer,
        Err((failure, why)) => return refuse(failure, &why, None),
    };
    match order::order(cache, PurgeTarget::Url(url), hard, WAIT).await {
        Ok(report) => {
            let mut answer = text(StatusCode::OK, serde_json::to_vec(&report).unwrap_or_default());
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => text(status_of(&error), format!("{error}\n")),
    }
}

/// By who must act: the asker, the operator of this node, or whoever waits.
const fn status_of(error: &PurgeError) -> StatusCode {
    match error {
        PurgeError::Url(_) | PurgeError::Length { .. } => StatusCode::BAD_REQUEST,
        PurgeError::Unsaid(_) => StatusCode::FORBIDDEN,
        PurgeError::Clock | PurgeError::Signers(_) => StatusCode::SERVICE_UNAVAILABLE,
        PurgeError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(code: StatusCode, why: &'static str) -> Response<Body> {
    let mut answer = text(code, why);
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// `hard`, or anything else for a soft purge.
static ATOLL_PURGE: HeaderName = HeaderName::from_static("atoll-purge");

/// How long other nodes are waited for before the answer says who has applied it.
const WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use atoll_overlay::membership::Unsaid;

    use super::*;
    use crate::url::UrlError;

    #[test]
    fn what_is_answered_says_who_must_act() {
        for (error, code) in [
            (PurgeError::Url(UrlError::Malformed(String::new())), 400),
            (PurgeError::Length { what: "a tag" }, 400),
            (PurgeError::Unsaid(Unsaid::NoKey), 403),
            (PurgeError::Clock, 503),
            (PurgeError::Signers(64), 503),
            (PurgeError::Store(atoll_store::StoreError::Broken), 500),
        ] {
            assert_eq!(status_of(&error), code, "{error}");
        }
    }
}
