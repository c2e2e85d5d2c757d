//! Reads of bodies that are on disk: a slice from its beginning whole and into the RAM tier, anything else piece by piece.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::Engine;
use crate::error::ReadError;
use crate::index::Spot;
use crate::load::{Fault, SliceAt};
use crate::memory::Value;
use crate::object::{OnDisk, Pieces, Whole};
use crate::tiers::Tiers;

impl Tiers {
    /// 1 to `max` bytes at `offset` of a slice.
    pub(crate) async fn read_slice(self: Arc<Self>, at: &SliceAt, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        if let Some((Value::Slice(pieces), _)) = self.memory.get(&at.key) {
            return Ok(pieces.read(offset, max));
        }
        if offset > 0 {
            return self.read_range(at, None, offset, max).await;
        }
        let slice = at.clone();
        let pieces = Arc::clone(&self).on_disk(at, None, move |tiers, engine| {
            let pieces = Arc::new(engine.read_slice(&slice)?);
            tiers.memory.insert(slice.key, Value::Slice(Arc::clone(&pieces)));
            Ok(pieces)
        });
        Ok(pieces.await?.read(offset, max))
    }

    /// 1 to `max` bytes at `offset` of a slice or body, not kept in RAM.
    pub(crate) async fn read_range(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Option<Spot>,
        offset: u64,
        max: usize,
    ) -> Result<Bytes, ReadError> {
        let slice = at.clone();
        self.on_disk(at, spot, move |_, engine| engine.read_range(&slice, offset, max)).await
    }

    /// All of a body in one record, kept in RAM while it is current.
    pub(crate) async fn promote(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Spot,
        found: &OnDisk,
        soft_purged: bool,
    ) -> Result<Arc<Pieces>, ReadError> {
        let slice = at.clone();
        let (head, stored) = (found.head.clone(), found.stored);
        self.on_disk(at, Some(spot), move |tiers, engine| {
            let pieces = Arc::new(engine.read_slice(&slice)?);
            let key = head.key;
            let whole = Whole::new(head, stored, soft_purged, Arc::clone(&pieces));
            let whole = tiers.memory.house(whole);
            tiers.memory.insert_if(key, Value::Object(whole), || engine.still(&key, spot));
            Ok(pieces)
        })
        .await
    }

    /// Runs a read of a slice or body; what turns out corrupt is forgotten.
    async fn on_disk<T: Send + 'static>(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Option<Spot>,
        read: impl FnOnce(&Self, &Engine) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (tiers, slice) = (Arc::clone(&self), at.clone());
        let work = move || {
            let Some(engine) = tiers.disks.at(slice.disk) else { return Err(ReadError::Lost) };
            read(&tiers, engine).map_err(|fault| {
                engine.note(&fault);
                match fault {
                    Fault::Io(error) => ReadError::Io(error),
                    Fault::Corrupt(_) => {
                        engine.forget(&slice);
                        spot.map(|spot| engine.index.remove(engine.hash(&slice.key), spot));
                        ReadError::Corrupt
                    }
                    Fault::Other => ReadError::Lost,
                }
            })
        };
        self.pool.read(work).await.map_err(ReadError::Io)?
    }
}
