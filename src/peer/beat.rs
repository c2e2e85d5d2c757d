//! The heart of a peer: a beat twice a second, what the manager orders in return, and joining again when it was away.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    errands::Errands,
    join::{Applicant, JoinError, join},
    kept::Kept,
    lender::{Lender, Session},
};
use crate::{
    front::ask::{Bounds, Line, Question, Reply},
    manager::{
        membership::RENEWED,
        wire::{self, Beat, Orders},
    },
    out::{plain, say},
    state::State,
};

/// Why the heart stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The manager asked the peer to leave well.
    Drain,
    /// The manager asked it to stop at once.
    Now,
    /// The manager will have nothing to do with it.
    Refused(String),
}

/// Beats; see the file's head.
pub(crate) struct Heart {
    pub(crate) lender: Arc<Lender>,
    pub(crate) state: State,
    pub(crate) kept: Kept,
    pub(crate) applicant: Applicant,
    line: Line,
    errands: Errands,
    number: u64,
    /// What the manager last said of this peer.
    standing: String,
    alone: bool,
    saved: Instant,
    joined: Instant,
}

impl Heart {
    pub(crate) fn new(lender: Arc<Lender>, state: State, kept: Kept, applicant: Applicant) -> Self {
        let line = Line::to(lender.manager.clone());
        Self {
            lender,
            state,
            kept,
            applicant,
            line,
            errands: Errands::default(),
            number: 0,
            standing: String::new(),
            alone: false,
            saved: Instant::now(),
            joined: Instant::now(),
        }
    }

    /// Beats until the manager ends it, or for ever; while the peer leaves, until it is to stop at once. `wake` makes it beat at once.
    pub(crate) async fn run(&mut self, wake: &Notify) -> Stopped {
        let mut pause = BEAT;
        loop {
            let begun = Instant::now();
            match self.beat().await {
                Ok(None) => pause = BEAT,
                Ok(Some(stopped)) => return stopped,
                Err(why) => {
                    if !std::mem::replace(&mut self.alone, true) {
                        say(format_args!("the manager is away: {why}; serving on, and asking again"));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            if self.joined.elapsed() >= RENEWED {
                // Joining again brings a new certificate.
                self.lender.set_session(None);
            }
            if self.saved.elapsed() >= SAVE {
                self.save();
            }
            tokio::select! {
                () = sleep_until(begun + pause) => {}
                () = wake.notified() => {}
            }
        }
    }

    /// Writes what must survive.
    pub(crate) fn save(&mut self) {
        self.saved = Instant::now();
        self.kept.used = self.lender.service.meter.quota_used();
        self.kept.save(&self.state);
    }

    /// One beat, after joining if need be.
    pub(crate) async fn beat(&mut self) -> Result<Option<Stopped>, String> {
        let session = match self.lender.session() {
            Some(session) => session,
            None => match self.join().await? {
                Ok(session) => session,
                Err(refused) => return Ok(Some(Stopped::Refused(refused))),
            },
        };
        let (checked, warmed) = self.errands.results();
        let (told_checked, told_warmed) = (checked.len(), warmed.clone());
        self.number += 1;
        let beat = Beat { checked, warmed, ..self.now() };
        let question = Question::post("/_atoll/beat", &beat);
        let proof = wire::beat_proof(&session.key, &question.body);
        let reply =
            self.line.ask(question.with(wire::PROOF, &proof), BOUNDS).await.map_err(|error| error.to_string())?;
        match reply.status {
            StatusCode::OK => {
                self.errands.told(told_checked, &told_warmed);
                let orders = reply.json::<Orders>().map_err(|error| error.to_string())?;
                Ok(self.obey(orders))
            }
            StatusCode::UNAUTHORIZED => {
                // The manager has forgotten us, or is another process: the next beat joins.
                self.lender.set_session(None);
                Ok(None)
            }
            StatusCode::FORBIDDEN => Ok(Some(Stopped::Refused(reply.line()))),
            _ => Err(strange(&reply)),
        }
    }

    async fn join(&mut self) -> Result<Result<Session, String>, String> {
        match join(&self.lender.manager, &mut self.kept, &self.applicant).await {
            Ok(joined) => {
                let session = Session { key: joined.session, url: joined.welcome.url };
                self.lender.set_session(Some(session.clone()));
                self.joined = Instant::now();
                self.save();
                if std::mem::replace(&mut self.alone, false) {
                    say("the manager is back");
                }
                Ok(Ok(session))
            }
            Err(JoinError::Never(why)) => Ok(Err(why)),
            Err(JoinError::Later(error)) => Err(error.to_string()),
        }
    }

    /// How the peer is now.
    fn now(&self) -> Beat {
        let meter = &self.lender.service.meter;
        let (first_record, records) = meter.records(wire::RECORDS);
        let (neighbours, copies) = self.lender.surroundings();
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Beat {
            peer: self.lender.name.clone(),
            number: self.number,
            draining: self.lender.draining.load(Ordering::Relaxed),
            in_flight: u64::try_from(meter.in_flight()).unwrap_or(u64::MAX),
            downloads: meter.downloads(wire::DOWNLOADS),
            sent: meter.sent(),
            origin_bytes: self.lender.service.proxy.stats().origin_bytes,
            copies,
            rate: meter.rate(),
            quota_left: meter.quota_left(),
            weight: Some(self.lender.weight),
            neighbours,
            rtt_us: self.line.round_trip().map(micros),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            first_record,
            records,
            dropped_records: meter.dropped(),
            checked: Vec::new(),
            warmed: Vec::new(),
        }
    }

    fn obey(&mut self, orders: Orders) -> Option<Stopped> {
        self.alone = false;
        self.lender.service.meter.collected(orders.collected);
        let standing = plain(&orders.standing);
        // Its numbers change with every beat; what is told is that it waits, and for what.
        let kind = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        if kind(&standing) != kind(&self.standing) {
            say(format_args!("the manager says of this machine: {standing}"));
            self.standing = standing;
        }
        self.errands.check(orders.check);
        self.errands.warm(&self.lender, orders.warm);
        if orders.stop {
            return Some(Stopped::Now);
        }
        // Once it is leaving, that is no news.
        (orders.drain && !self.lender.draining.load(Ordering::Relaxed)).then_some(Stopped::Drain)
    }
}

fn strange(reply: &Reply) -> String {
    format!("it answers {}: {}", reply.status, reply.line())
}

/// Between two beats.
const BEAT: Duration = Duration::from_millis(400);

/// Between two attempts while the manager is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Between two writes of the quota.
const SAVE: Duration = Duration::from_secs(10);

/// For the manager's answer to a beat.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(3), bytes: 1 << 20 };
