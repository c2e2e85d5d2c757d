//! Deadlines of connections: moved on with every request, and almost never reached.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that is cheap to move on: its timer is set anew only when it goes off too early.
#[derive(Default)]
pub(crate) struct Alarm {
    /// When to go off; never, if nothing is waited for.
    pub(crate) due: Option<Instant>,
    /// The timer, at or before that moment.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Due at this moment.
    pub(crate) const fn at(due: Instant) -> Self {
        Self { due: Some(due), sleep: None }
    }

    /// Ready once it is due, if it is at all.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker, time::Duration};

    use super::*;

    #[tokio::test]
    async fn one_that_is_moved_on_goes_off_late_and_one_that_is_moved_back_early() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut alarm = Alarm::at(after(5));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(alarm.poll(cx).is_pending());
        alarm.due = Some(after(50));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(Instant::now() >= after(50));
        alarm.due = Some(after(3_600_000));
        assert!(alarm.poll(cx).is_pending());
        alarm.due = Some(after(100));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!((after(100)..after(3_600_000)).contains(&Instant::now()));
        alarm.due = None;
        assert!(alarm.poll(cx).is_pending());
    }
}
