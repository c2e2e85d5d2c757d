//! How a front ends. The first signal closes warm: nobody new, what runs finishes, with its progress printed, for as long as the
//! grace lasts. The second closes cold. The operator's two wishes, from the page or by `atoll drain`, are the same.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{amount::shown, listen::Front, meter::Meter};
use crate::out::say;

/// Takes nobody new and lets what runs finish for so long, saying how far it is. True if all finished.
pub(crate) async fn warm_close(front: Front, meter: &Meter, grace: Duration) -> bool {
    front.close();
    let begun = Instant::now();
    let mut told = None;
    let finished = loop {
        let running = meter.in_flight();
        if running == 0 {
            break true;
        }
        let passed = begun.elapsed();
        if passed >= grace {
            break false;
        }
        if told != Some(passed.as_secs()) {
            told = Some(passed.as_secs());
            let left = (grace - passed).as_secs();
            say(format_args!("leaving: {running} downloads run, {} to go, at most {left} s", shown(meter.left())));
        }
        sleep(LOOK).await;
    };
    // What is not a download (a page, an idle connection) gets a moment.
    front.finish(if finished { LAST } else { Duration::ZERO }).await;
    say(if finished { "all downloads finished" } else { "the deadline is over: what still ran was cut" });
    finished
}

/// Ready shortly after `asked`: whoever asked for a cold close is to have its answer before the doors shut.
pub(crate) async fn after(asked: impl Future<Output = ()>) {
    asked.await;
    sleep(ANSWER).await;
    say("asked to stop at once");
}

/// For the answer to whoever asked.
const ANSWER: Duration = Duration::from_millis(100);

/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(50);

/// For connections without a download to end by themselves.
const LAST: Duration = Duration::from_millis(500);
