//! The words that vouch for one flight's body, as they come: from the peers it streams from, or, where this node is the fetcher,
//! made when the first peer asks for them. A fetch that no peer joins signs nothing.
//!
//! A fetcher signs at 64 KiB or 100 ms, whichever comes first; of what it has already, half a MiB at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use atoll_overlay::Streams;
use atoll_store::Partial;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    digest,
    reason::Failure,
    vouch::{CHUNK, CHUNKS_MOST, Chunk, Copied, Entry, Group, Groups},
};

/// The groups of one body so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    /// Held while chunks are read and signed, so that each is signed once.
    signing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// Whether any of them came from elsewhere.
    relayed: bool,
    /// Bytes that this node may vouch for begin here: it has them from the origin. `None`: it has not.
    own: Option<u64>,
    /// When the first byte was seen that nobody vouches for yet.
    since: Option<Instant>,
}

/// How far a body is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach<'a> {
    pub(crate) partial: &'a Partial,
    /// Bytes that may be shown.
    pub(crate) visible: u64,
    /// Whether no more will come.
    pub(crate) whole: bool,
}

/// What a follower gets.
pub(crate) enum Next {
    /// The words for what comes next, where in the ledger they stand, and up to which byte they hold.
    Group(Arc<Group>, usize, u64),
    /// None yet; there will be some by then, if no more bytes come before.
    Wait(Option<Instant>),
}

impl Ledger {
    /// Another node's words, for what comes after these bytes. Checked before.
    pub(crate) fn push(&self, group: Arc<Group>, at: u64) {
        let mut state = self.state();
        state.relayed = true;
        state.own = None;
        state.entries.push(Entry { from: at, group });
    }

    /// From here on the bytes come from the origin, to this node.
    pub(crate) fn take_over(&self, at: u64) {
        let mut state = self.state();
        state.own = Some(at);
        state.since = None;
    }

    /// Signs all that there is of this node's own, also what does not fill a chunk: what follows is another's.
    pub(crate) async fn settle(
        &self,
        (streams, copied): (&dyn Streams, Copied),
        reach: Reach<'_>,
    ) -> Result<(), Failure> {
        let _turn = self.signing.lock().await;
        loop {
            let Some(start) = self.state().own.filter(|own| *own < reach.visible) else { return Ok(()) };
            let full = u64::from(CHUNK);
            let end = reach.visible.min(start - start % full + full * wide(CHUNKS_MOST));
            let chunks = chunks(reach.partial, start, end - start).await?;
            let group = copied.sign(streams, start, false, chunks).ok_or(Failure::Internal)?;
            let mut state = self.state();
            state.own = Some(end);
            state.entries.push(Entry { from: start, group: Arc::new(group) });
        }
    }

    /// Nobody has seen a byte: all begins anew.
    pub(crate) fn reset(&self) {
        *self.state() = State::default();
    }

    /// The words for the byte at this place, or for the body's end there.
    pub(crate) async fn next(
        &self,
        (streams, copied): (&dyn Streams, Copied),
        reach: Reach<'_>,
        at: u64,
    ) -> Result<Next, Failure> {
        if let Some(found) = self.state().find(at) {
            return Ok(found);
        }
        let _turn = self.signing.lock().await;
        loop {
            // Another follower may have had them made meanwhile.
            if let Some(found) = self.state().find(at) {
                return Ok(found);
            }
            let (start, count) = match self.state().due(reach, Instant::now()) {
                Due::Now(start, count) => (start, count),
                Due::Later(until) => return Ok(Next::Wait(until)),
            };
            let (chunks, last) =
                (chunks(reach.partial, start, count).await?, reach.whole && start + count == reach.visible);
            let group = copied.sign(streams, start, last, chunks).ok_or(Failure::Internal)?;
            let mut state = self.state();
            state.own = Some(group.end());
            state.since = None;
            state.entries.push(Entry { from: start, group: Arc::new(group) });
        }
    }

    /// Another node's words for the byte at this place.
    pub(crate) fn group_at(&self, at: u64) -> Option<Arc<Group>> {
        Entry::find(&self.state().entries, at).map(|(_, entry, _)| Arc::clone(&entry.group))
    }

    /// What is to be kept with a whole body: nothing where this node can vouch for all of it.
    pub(crate) async fn kept(&self, signer: (&dyn Streams, Copied), reach: Reach<'_>) -> Result<Groups, Failure> {
        if !self.is_relayed() {
            return Ok(Groups::Own);
        }
        // What this node itself added to a copy that began elsewhere.
        loop {
            let end = self.state().end();
            match self.next(signer, reach, end).await? {
                Next::Group(group, ..) if !group.last => {}
                Next::Group(..) | Next::Wait(_) => break,
            }
        }
        let all = self.encoded();
        Ok(if all.len() <= INLINE { Groups::Inline(all) } else { Groups::Beside })
    }

    /// Whether any of it is another's word.
    pub(crate) fn is_relayed(&self) -> bool {
        self.state().relayed
    }

    /// All of it, as it is kept.
    pub(crate) fn encoded(&self) -> Bytes {
        let entries = self.state().entries.clone();
        Entry::encode_all(&entries)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When chunks are to be signed.
enum Due {
    /// So many bytes from here.
    Now(u64, u64),
    Later(Option<Instant>),
}

impl State {
    /// Where the words so far end, and this node's own begin.
    fn end(&self) -> u64 {
        self.own.unwrap_or_else(|| self.entries.last().map_or(0, |entry| entry.group.end()))
    }

    fn find(&self, at: u64) -> Option<Next> {
        // What this node has from the origin it does not show in others' words.
        let own = self.own.filter(|own| self.entries.last().is_none_or(|last| last.group.end() > *own));
        if own.is_some_and(|own| at >= own) {
            return None;
        }
        let (place, entry, until) = Entry::find(&self.entries, at)?;
        Some(Next::Group(Arc::clone(&entry.group), place, own.map_or(until, |own| own.min(until))))
    }

    fn due(&mut self, reach: Reach<'_>, now: Instant) -> Due {
        let Some(start) = self.own else { return Due::Later(None) };
        let full = u64::from(CHUNK);
        let (visible, most) = (reach.visible, start - start % full + full * wide(CHUNKS_MOST));
        let fresh = visible.saturating_sub(start);
        // What does not fill a chunk waits for more, unless there is none.
        let end = if reach.whole { visible } else { visible - visible % full };
        if end > start || reach.whole {
            return Due::Now(start, end.min(most).saturating_sub(start));
        }
        if fresh == 0 || self.entries.len() >= SHORT_GROUPS {
            return Due::Later(None);
        }
        let until = *self.since.get_or_insert(now) + SOON;
        if now >= until { Due::Now(start, fresh) } else { Due::Later(Some(until)) }
    }
}

/// The chunks of so many bytes.
async fn chunks(partial: &Partial, start: u64, count: u64) -> Result<Vec<Chunk>, Failure> {
    let full = u64::from(CHUNK);
    let mut chunks = Vec::new();
    let (mut at, end) = (start, start + count);
    while at < end {
        let stop = end.min(at - at % full + full);
        let length = u32::try_from(stop - at).unwrap_or(CHUNK);
        let (began, mut bytes) = (at, Vec::new());
        while at < stop {
            let room = usize::try_from(stop - at).unwrap_or(usize::MAX);
            let piece = partial.read(at, room).await.map_err(|_| Failure::ResponseIncomplete)?;
            if piece.is_empty() {
                return Err(Failure::ResponseIncomplete);
            }
            at += wide(piece.len());
            bytes.push(piece);
        }
        let digest = match &bytes[..] {
            [bytes] => digest::of_chunk(began, bytes),
            _ => digest::of_chunk(began, &bytes.concat()),
        };
        chunks.push(Chunk { length, digest });
    }
    Ok(chunks)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Bytes that fill no chunk are signed after so long [design 4].
const SOON: Duration = Duration::from_millis(100);

/// Groups past which only full chunks are signed, so that an origin that sends a byte a second makes no endless list. \[guess\]
const SHORT_GROUPS: usize = 4_096;

/// Bytes of groups that are kept in an object's metadata; more of them stand beside it.
const INLINE: usize = 1_024;

#[cfg(test)]
mod tests {
    use atoll_store::{Head, PurgeNumber, Store, Tags, Writer};

    use super::*;

    /// A node that signs by saying so.
    struct Here;

    #[async_trait::async_trait]
    impl Streams for Here {
        async fn open(
            &self,
            _: atoll_overlay::NodeId,
        ) -> Result<atoll_overlay::ByteStream, atoll_overlay::StreamError> {
            Err(atoll_overlay::StreamError::NoPeers)
        }

        async fn accept(
            &self,
        ) -> Result<(atoll_overlay::NodeId, atoll_overlay::ByteStream), atoll_overlay::StreamError> {
            Err(atoll_overlay::StreamError::NoPeers)
        }

        fn sign(&self, statement: &[u8]) -> Option<Bytes> {
            Some(Bytes::copy_from_slice(blake3::hash(statement).as_bytes()))
        }
    }

    const COPIED: Copied = Copied { key: atoll_overlay::Key::ZERO, validator: [1; 16] };

    async fn writer(length: usize) -> (Writer, Partial) {
        let store = Store::open(atoll_store::Config::default()).await.unwrap();
        let head = Head {
            key: atoll_store::Key::from_bytes([0; 20]),
            directory: 0,
            tags: Tags::default(),
            expires: None,
            metadata: Bytes::new(),
            length: None,
            born: PurgeNumber(0),
        };
        let mut writer = store.writer(head).unwrap();
        writer.append(vec![7; length].into()).await.unwrap();
        let partial = writer.partial();
        (writer, partial)
    }

    async fn lengths(ledger: &Ledger, reach: Reach<'_>) -> Vec<u64> {
        let (mut at, mut found) = (0, Vec::new());
        while let Next::Group(group, ..) = ledger.next((&Here, COPIED), reach, at).await.unwrap() {
            found.push(group.end() - at);
            at = group.end();
            if group.last {
                break;
            }
        }
        found
    }

    #[tokio::test]
    async fn full_chunks_are_signed_at_once_the_rest_when_it_is_due_or_the_last() {
        let (_writer, partial) = writer(700_000).await;
        let ledger = Ledger::default();
        let some = Reach { partial: &partial, visible: 140_000, whole: false };
        assert!(lengths(&ledger, some).await.is_empty(), "not from the origin: nothing to vouch for");
        ledger.take_over(0);
        assert_eq!(lengths(&ledger, some).await, [131_072]);
        let Next::Wait(Some(until)) = ledger.next((&Here, COPIED), some, 131_072).await.unwrap() else {
            panic!("a short chunk waits")
        };
        tokio::time::sleep_until(until).await;
        assert_eq!(lengths(&ledger, some).await, [131_072, 8_928]);
        let all = Reach { partial: &partial, visible: 700_000, whole: true };
        assert_eq!(lengths(&ledger, all).await, [131_072, 8_928, 515_360, 44_640]);
        assert_eq!(ledger.kept((&Here, COPIED), all).await, Ok(Groups::Own));
    }

    #[tokio::test]
    async fn what_is_kept_of_a_relayed_body_covers_all_of_it() {
        let (_writer, partial) = writer(200_000).await;
        let ledger = Ledger::default();
        let chunk = Chunk { length: 50_000, digest: blake3::hash(&[7; 50_000]) };
        // It promised all of it, and sent one chunk.
        let promised = Group { start: 0, last: true, chunks: vec![chunk; 4], proof: Bytes::from_static(b"x") };
        ledger.push(Arc::new(promised), 0);
        ledger.take_over(50_000);
        let all = Reach { partial: &partial, visible: 200_000, whole: true };
        let Groups::Inline(kept) = ledger.kept((&Here, COPIED), all).await.unwrap() else { panic!("not inline") };
        let entries = Entry::decode_all(kept).unwrap();
        assert_eq!(Entry::find(&entries, 0).map(|(place, _, until)| (place, until)), Some((0, 50_000)));
        let (_, own, until) = Entry::find(&entries, 50_000).unwrap();
        assert_eq!((own.group.start, until, own.group.last), (50_000, 200_000, true));
        ledger.reset();
        assert!(ledger.encoded().is_empty());
    }

    #[tokio::test]
    async fn a_trickle_makes_no_endless_list() {
        let (_writer, partial) = writer(10).await;
        let ledger = Ledger::default();
        ledger.take_over(0);
        let short = Group { start: 0, last: false, chunks: Vec::new(), proof: Bytes::new() };
        ledger.state().entries = vec![Entry { from: 0, group: Arc::new(short) }; SHORT_GROUPS];
        let reach = Reach { partial: &partial, visible: 10, whole: false };
        assert!(matches!(ledger.next((&Here, COPIED), reach, 0).await, Ok(Next::Wait(None))));
    }
}
