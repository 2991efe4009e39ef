//! `[spool]`: shares within their wholes, and every body that is buffered within both shares of one body.

use std::path::PathBuf;

use super::super::error::Report;
use super::super::model::Spool;
use super::super::place::{At, Place};
use super::super::raw;
use super::super::value::Size;
use super::given;

/// A spool and what a body too large for it is told.
pub(super) struct Built {
    pub value: Spool,
    /// None where a size was refused: no body is too large for what is not known.
    room: Option<Room>,
}

struct Room {
    memory: Size,
    disk: Size,
    /// The key that gives more of it.
    raise: &'static str,
    /// The size that was written, where one was.
    written: Option<Place>,
}

/// `[spool]`.
pub(super) fn build(raw: raw::Spool, report: &mut Report) -> Built {
    let memory_per_body = share(raw.memory_per_body.as_ref(), raw.memory.as_ref(), "memory", report);
    let disk_per_body = share(raw.disk_per_body.as_ref(), raw.disk.as_ref(), "disk", report);
    let room = memory_per_body.zip(disk_per_body).map(|(memory, disk)| {
        // A default that the whole made smaller grows with it.
        let is_bounded =
            raw.disk_per_body.as_ref().is_some_and(|default| !default.is_written() && default.value > disk);
        let sizes = [&raw.disk_per_body, &raw.disk, &raw.memory_per_body, &raw.memory];
        Room {
            memory,
            disk,
            raise: if is_bounded { "spool.disk" } else { "spool.disk_per_body" },
            written: sizes.into_iter().flatten().find(|size| size.is_written()).map(|size| size.place.clone()),
        }
    });
    let value = Spool {
        memory: given(raw.memory).0,
        memory_per_body: memory_per_body.unwrap_or_default().0,
        dir: raw.dir.map_or_else(PathBuf::new, |dir| dir.value.0),
        disk: given(raw.disk).0,
        disk_per_body: disk_per_body.unwrap_or_default().0,
    };
    Built { value, room }
}

/// What one body has of the whole. The default shrinks with the whole; a size that is written is the operator's word.
fn share(part: Option<&At<Size>>, whole: Option<&At<Size>>, whole_name: &str, report: &mut Report) -> Option<Size> {
    let (part, whole) = (part?, whole?);
    if part.is_written() && part.value > whole.value {
        let message = format!(
            "expected at most `{whole_name}`, the size of all bodies together; found {} and {}",
            part.value, whole.value
        );
        report.problem(&part.place, message);
        return None;
    }
    Some(part.value.min(whole.value))
}

impl Built {
    /// Reports a `max_body` that could be allowed in and then not be held.
    pub(super) fn check_body(&self, max_body: &At<Size>, report: &mut Report) {
        let Some(room) = &self.room else { return };
        // A body that says its length is kept in memory whole, or has its place on disk as a whole.
        if max_body.value <= room.memory.max(room.disk) {
            return;
        }
        // Blame what was written: either may be a default.
        let (name, place) = match &room.written {
            _ if max_body.is_written() => ("max_body", &max_body.place),
            Some(written) => ("server.client.max_body", written),
            None => ("server.client.max_body", &max_body.place),
        };
        report.problem(
            place,
            format!(
                "a body of `{name}`, {}, does not fit the spool, which holds {} (`spool.memory_per_body`) or {} \
                 (`spool.disk_per_body`) of one; raise `{}`, lower `max_body`, or set `buffer_requests = false`",
                max_body.value, room.memory, room.disk, room.raise
            ),
        );
    }
}
