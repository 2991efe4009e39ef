//! `[error_pages]`: read once, so that an answer never waits for a disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::super::error::Report;
use super::super::interpolate::read_bounded;
use super::super::model::ErrorPage;
use super::super::place::At;
use super::super::schema::Table;
use super::super::value::PageFile;
use super::super::walk::quoted;

/// Bytes a page may have; each is kept in memory.
const PAGE_MAX: u64 = 1 << 20;

/// Reads every page; relative ones are looked for in `base`.
pub(super) fn read_all(pages: Table<PageFile>, base: &Path, report: &mut Report) -> BTreeMap<u16, Arc<ErrorPage>> {
    let mut read = BTreeMap::new();
    for (status, page) in pages.0 {
        let code = status.value.parse().ok().filter(|code| (400..=599).contains(code) && status.value.len() == 3);
        let Some(code) = code else {
            report
                .problem(&status.place, format!("expected a status from 400 to 599; found {}", quoted(&status.value)));
            continue;
        };
        read.extend(self::read(&page, base, report).map(|page| (code, page)));
    }
    read
}

/// Reads one page.
pub(super) fn read(page: &At<PageFile>, base: &Path, report: &mut Report) -> Option<Arc<ErrorPage>> {
    match read_bounded(&base.join(&page.value.path), PAGE_MAX) {
        Ok(body) => {
            let content_type = HeaderValue::from_static(page.value.content_type);
            Some(Arc::new(ErrorPage { content_type, body: Bytes::from(body) }))
        }
        Err(reason) => {
            report.problem(&page.place, reason);
            None
        }
    }
}
