//! A whole that begins with what is stored of it: only the rest is asked of the origin, and joined under one strong validator
//! (RFC 9111 3.4).

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    cache::store_key,
    clock,
    conditions::strong_validator,
    fetch::{Fetch, Mode, Outcome, wide},
    flight::End,
    freshness::{self, Vary},
    from_origin::came_by,
    meta::{Meta, strip_hop_by_hop, validator},
    origin::OriginAnswer,
    part::{self, Begun, Span},
    reason::{Failure, Reason, Source},
    receive::CONDITIONS,
    stated::CONTENT_DIGEST,
};

impl Fetch {
    /// The stored beginning of what is asked for, if the rest of it can be told to belong to it.
    pub(crate) async fn begun(&self) -> Option<Begun> {
        let fields = &self.wanted.fields;
        let plain = self.stale.is_none()
            && self.wanted.cut.is_none()
            && self.mode != Mode::Unstored
            && !CONDITIONS.iter().chain([&header::RANGE]).any(|name| fields.contains_key(name));
        // Only own sites' parts are kept.
        if !plain || self.wanted.site.is_none() {
            return None;
        }
        part::begun(&self.cache, self.wanted.key, &self.wanted.url.to_string()).await
    }

    /// Asks for what comes after the beginning.
    pub(crate) fn ask_rest(begun: &Begun, fields: &mut HeaderMap) {
        fields.insert(header::IF_RANGE, begun.validator.1.clone());
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-", begun.length)) {
            fields.insert(header::RANGE, range);
        }
    }

    /// The origin answered a question for the rest: with the rest, with all of another version, or with neither, in which case the
    /// beginning is given up and all of it asked for.
    pub(crate) async fn rest(&mut self, begun: Begun, mut answer: OriginAnswer, asked: SystemTime) -> Outcome {
        // The rest, all of it.
        let rest = |span: &Span| {
            span.first == begun.length
                && span.last + 1 == span.total
                && begun.total.is_none_or(|total| total == span.total)
                && answer.length.is_none_or(|length| length == span.length())
        };
        let total = Span::of(&answer.fields).filter(rest).map(|span| span.total);
        let fits = answer.status == StatusCode::PARTIAL_CONTENT
            && freshness::storable(StatusCode::OK, &answer.fields, self.asker()).is_ok()
            && Vary::of(&answer.fields) == Vary::Nothing
            && strong_validator(&answer.fields).as_ref() == Some(&begun.validator);
        let Some(total) = total.filter(|_| fits) else {
            for (key, ..) in &begun.pieces {
                if let Err(error) = self.cache.store.remove(&store_key(*key)).await {
                    tracing::warn!(%error, "a part that is no longer good could not be removed");
                    return Outcome::End(End::Failed(Failure::Internal));
                }
            }
            return match answer.status {
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_MODIFIED => {
                    Box::pin(self.ask_origin()).await
                }
                _ => Outcome::End(self.answered(answer, asked).await),
            };
        };
        let received = clock::now();
        strip_hop_by_hop(&mut answer.fields);
        came_by(answer.version, &mut answer.fields);
        let mut fields = freshness::freshened(&begun.fields, &answer.fields);
        fields.remove(header::CONTENT_RANGE);
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(CONTENT_DIGEST);
        let url = self.wanted.url.to_string();
        let meta = Meta {
            validator: validator(&url, &fields, Some(total), rand::random()),
            url,
            status: StatusCode::OK,
            initial_age: freshness::initial_age(&answer.fields, asked, received),
            fields,
            received,
            length: Some(total),
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: crate::vouch::Vouched::default(),
        };
        Outcome::End(match self.join(meta, &begun).await {
            Ok(()) => self.pump(answer.body, begun.length).await,
            Err(end) => end,
        })
    }

    async fn join(&mut self, meta: Meta, begun: &Begun) -> Result<(), End> {
        self.begin(meta, Source::Origin).map_err(|refused| {
            self.unkept = Some(Reason::of_broken(refused.failure));
            End::Failed(refused.failure)
        })?;
        for (_, object, part) in &begun.pieces {
            let (mut at, to) = (part.from, part.to.unwrap_or_else(|| object.len()));
            while at < to {
                let room = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
                let bytes = object.read(at, room).await.unwrap_or_default();
                if bytes.is_empty() {
                    return Err(End::Failed(Failure::ResponseIncomplete));
                }
                at += wide(bytes.len());
                self.take(bytes).await?;
            }
        }
        Ok(())
    }
}

/// Bytes taken over at a time.
const PIECE: usize = 256 << 10;
