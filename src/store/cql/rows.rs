//! The rows: present values, written without conditions and stamped with the `seq` that last changed them.

use bytes::Bytes;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{AppendError, Loaded, ReadError, RowKey, RowKind, StoredRow, Unreadable};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use uuid::Uuid;

use super::log::{month_of, stored};
use super::seal::{seal, unseal};
use super::session::Failed;
use super::{Cql, lock};

/// Bytes of one batch. The database warns above 128 KiB, and holds a batch in memory several times over.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// How often the rows are read again because somebody wrote them meanwhile. Then they are taken as they are: each holds
/// its version, and what the log says about older ones is skipped.
const READS_MAX: usize = 3;

type RowColumns = (Option<i8>, Option<Uuid>, Option<i64>, Option<Bytes>, Option<i64>);

/// What one reading of all rows found.
struct Rows {
    rows: Vec<StoredRow>,
    unreadable: Vec<Unreadable>,
    /// At the beginning of the reading.
    rows_upto: Seq,
    /// It was written meanwhile.
    is_torn: bool,
}

impl Cql {
    /// How far the rows go.
    pub(super) async fn rows_upto(&self, feed: UserId) -> Result<Seq, ReadError> {
        let statement = &self.0.session.statements().read_rows_upto;
        let result = self
            .0
            .session
            .execute(statement, (feed.0,))
            .await
            .map_err(Failed::read)?;
        let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
        let row = rows
            .maybe_first_row::<(Option<i64>,)>()
            .map_err(|error| self.damaged(feed, &error))?;
        Ok(row.and_then(|(upto,)| upto).map_or(0, i64::cast_unsigned))
    }

    pub(super) async fn write_all(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> Result<(), AppendError> {
        if !lock(&self.0.known).contains_key(&feed) {
            let head = self.read_head(feed).await.map_err(|error| match error {
                ReadError::Unavailable(what) => AppendError::Unavailable(what),
                ReadError::Damaged(what) => AppendError::Damaged(what),
            })?;
            if head.is_none() {
                return Err(AppendError::Conflict(None));
            }
        }
        let is_activity = |row: &StoredRow| row.key.kind == RowKind::Activity;
        let (activity, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_activity);
        // In partitions of its own, and there before rows_upto speaks for it.
        let counted = activity.into_iter().map(|row| self.write_activity(feed, row));
        futures_util::future::try_join_all(counted).await?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let body = seal(&row.body, self.0.compress);
            let size = 64 + body.len();
            if bytes + size > BATCH_BYTES_MAX && !batch.is_empty() {
                self.write_batch(feed, std::mem::take(&mut batch), None).await?;
                bytes = 0;
            }
            bytes += size;
            let seq = stored(row.seq);
            batch.push((feed.0, row.key.kind as i8, Uuid::from_bytes(row.key.id), seq, body, seq));
        }
        // With the last ones, when everything else that it speaks for is there.
        self.write_batch(feed, batch, Some(stored(upto))).await
    }

    async fn write_activity(&self, feed: UserId, row: StoredRow) -> Result<(), AppendError> {
        let Some(quarter) = Quarter::of_key(row.key) else {
            return Ok(());
        };
        let values = (
            feed.0,
            month_of(quarter.begin()),
            i64::from(quarter.0),
            stored(row.seq),
            row.body,
            stored(row.seq),
        );
        let statement = &self.0.session.statements().write_activity;
        let done = self.0.session.execute(statement, values).await;
        done.map(drop).map_err(Failed::append)
    }

    /// The quarters from the one to the other that can be read, and the others.
    pub(super) async fn read_activity(
        &self,
        feed: UserId,
        from: Quarter,
        to: Quarter,
    ) -> Result<(Vec<StoredRow>, Vec<Unreadable>), ReadError> {
        let (mut rows, mut unreadable) = (Vec::new(), Vec::new());
        let statement = &self.0.session.statements().read_activity;
        for month in month_of(from.begin())..=month_of(to.begin()) {
            let values = (feed.0, month, i64::from(from.0), i64::from(to.0));
            // A month is less than a page.
            let result = self.0.session.execute(statement, values).await.map_err(Failed::read)?;
            let found = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
            let found = found.rows::<(i64, Option<i64>, Option<Bytes>)>();
            for row in found.map_err(|error| self.damaged(feed, &error))? {
                let (quarter, seq, body) = row.map_err(|error| self.damaged(feed, &error))?;
                let key = Quarter(u32::try_from(quarter).unwrap_or(u32::MAX)).key();
                match (seq, body) {
                    (Some(seq), Some(body)) => rows.push(StoredRow {
                        key,
                        seq: seq.cast_unsigned(),
                        body,
                    }),
                    _ => {
                        self.0.observer.damage();
                        unreadable.push(Unreadable {
                            key,
                            what: format!("feed_activity of user {feed}: quarter {quarter} is not what was written"),
                        });
                    }
                }
            }
        }
        Ok((rows, unreadable))
    }

    async fn write_batch(
        &self,
        feed: UserId,
        rows: Vec<(Uuid, i8, Uuid, i64, Vec<u8>, i64)>,
        upto: Option<i64>,
    ) -> Result<(), AppendError> {
        let prepared = self.0.session.statements();
        let mut statements = vec![&prepared.row; rows.len()];
        let mut values: Vec<Box<dyn SerializeRow + Send + Sync>> = Vec::with_capacity(rows.len() + 1);
        values.extend(rows.into_iter().map(|row| Box::new(row) as Box<_>));
        if let Some(upto) = upto {
            statements.push(&prepared.rows_upto);
            // The stamp lets the highest win.
            values.push(Box::new((upto, upto, feed.0)));
        }
        let done = self.0.session.batch(&statements, values, true).await;
        done.map(drop).map_err(Failed::append)
    }

    pub(super) async fn load_all(&self, feed: UserId, ids_since: UnixMs) -> Result<Option<Loaded>, ReadError> {
        // Those who wait longer than a read may take come again, behind the others.
        let place = self.0.session.place(&self.0.loads).await;
        let _place = place.map_err(Failed::read)?;
        let mut rows = self.read_rows(feed).await?;
        for _ in 1..READS_MAX {
            if !rows.is_torn {
                break;
            }
            rows = self.read_rows(feed).await?;
        }
        // After the rows: whatever they hold is in the log by then.
        let Some((head, commits)) = self.commits_back(feed, rows.rows_upto, ids_since).await? else {
            return Ok(None);
        };
        self.knows(feed, 0);
        if let (Some(first), Some(last)) = (commits.first(), commits.last()) {
            let (from, to) = (Quarter::of(first.row.time), Quarter::of(last.row.time));
            // After the rows as well: it is at least as far as rows_upto says.
            let (activity, unreadable) = self.read_activity(feed, from, to).await?;
            rows.rows.extend(activity);
            rows.unreadable.extend(unreadable);
        }
        Ok(Some(Loaded {
            head: head.with(rows.rows_upto),
            rows: rows.rows,
            unreadable: rows.unreadable,
            log: commits.into_iter().map(|commit| commit.row).collect(),
        }))
    }

    async fn read_rows(&self, feed: UserId) -> Result<Rows, ReadError> {
        let mut found = Rows {
            rows: Vec::new(),
            unreadable: Vec::new(),
            rows_upto: 0,
            is_torn: false,
        };
        let mut from = PagingState::start();
        let mut is_first = true;
        loop {
            let statement = &self.0.session.statements().read_rows;
            let page = self.0.session.page(statement, (feed.0,), from).await;
            let (result, next) = page.map_err(Failed::read)?;
            let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
            let rows = rows.rows::<RowColumns>().map_err(|error| self.damaged(feed, &error))?;
            for row in rows {
                let (kind, id, seq, body, upto) = row.map_err(|error| self.damaged(feed, &error))?;
                let upto = upto.map_or(0, i64::cast_unsigned);
                if is_first {
                    found.rows_upto = upto;
                    is_first = false;
                }
                found.is_torn |= upto != found.rows_upto;
                // A partition without rows has one, of statics alone.
                let (Some(kind), Some(id)) = (kind, id) else { continue };
                // A newer build's kind is no concern of this one.
                let Some(kind) = kind_of(kind) else { continue };
                let key = RowKey {
                    kind,
                    id: id.into_bytes(),
                };
                match (seq, body.as_ref().and_then(unseal)) {
                    (Some(seq), Some(body)) => found.rows.push(StoredRow {
                        key,
                        seq: seq.cast_unsigned(),
                        body,
                    }),
                    _ => {
                        self.0.observer.damage();
                        found.unreadable.push(Unreadable {
                            key,
                            what: format!("feed_rows of user {feed}: the row {kind:?} {id} is not what was written"),
                        });
                    }
                }
            }
            match next {
                PagingStateResponse::HasMorePages { state } => from = state,
                PagingStateResponse::NoMorePages => return Ok(found),
            }
        }
    }
}

fn kind_of(kind: i8) -> Option<RowKind> {
    [RowKind::Settings, RowKind::List, RowKind::Task, RowKind::Label]
        .into_iter()
        .find(|known| *known as i8 == kind)
}
