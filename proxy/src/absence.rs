//! Time in which nobody looked at what peers send, since what came before was being stored: it counts against none of them.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, error::Elapsed, timeout_at};

/// How long nobody looked, in all. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Absence(Arc<Mutex<Duration>>);

impl Absence {
    /// Nobody looked for so long.
    pub(crate) fn add(&self, span: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += span;
    }

    pub(crate) fn total(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long at most, absences not counted.
    pub(crate) async fn within<T>(&self, span: Duration, wait: impl Future<Output = T>) -> Result<T, Elapsed> {
        let (began, before, mut wait) = (Instant::now(), self.total(), pin!(wait));
        let mut until = began + span;
        loop {
            match timeout_at(until, wait.as_mut()).await {
                Err(elapsed) => {
                    let later = began + span + self.total().saturating_sub(before);
                    if later <= until {
                        return Err(elapsed);
                    }
                    until = later;
                }
                come => return come,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        task::Poll,
    };

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn a_wait_goes_on_for_as_long_as_nobody_looked() {
        let absence = Absence::default();
        let away = async {
            absence.add(Duration::from_secs(3_600));
            pending::<()>().await;
        };
        let mut wait = pin!(absence.within(Duration::ZERO, away));
        let mut is_over = async || poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_ready())).await;
        assert!(!is_over().await);
        // Its time is over, but for the hour in which nobody looked. Timers go off in their order.
        sleep(Duration::from_millis(2)).await;
        assert!(!is_over().await);
        assert!(absence.within(Duration::ZERO, async {}).await.is_ok());
        assert!(absence.within(Duration::ZERO, pending::<()>()).await.is_err(), "absences of before are none of it");
    }
}
