//! A study, series or instance as the path names it, and what the index has of it.

use std::collections::BTreeSet;
use std::future::ready;
use std::pin::Pin;

use futures_util::stream::{self, Peekable, Stream, StreamExt, TryStreamExt};
use poem::Response;
use poem::http::{HeaderValue, StatusCode, header};
use thiserror::Error;

use crate::dicom::{ScanError, TransferSyntax};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::http::state::HttpState;
use crate::index::{Index, Located, Scope};
use crate::spool::{EntryId, ObjectReader, Spool, SpoolError};

/// Rows of the index held at once.
const PAGE: usize = 500;

#[derive(Clone)]
pub struct Resource {
    pub scope: Scope,
}

/// Some instances, in order. `next` asks for those after them; `None` when there are none.
pub struct Page {
    pub rows: Vec<Located>,
    pub next: Option<EntryId>,
}

/// What there is, counted before a status is answered.
pub struct Survey {
    pub first: Page,
    pub admitted: u64,
    /// In transfer syntaxes that the client does not accept.
    pub unacceptable: u64,
    syntaxes: BTreeSet<String>,
    pub freed: u64,
    /// Where one of the freed went.
    went: Option<String>,
}

impl Resource {
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let optional = |name| match call.request.raw_path_param(name) {
            Some(_) => call.uid(name).map(Some),
            None => Ok(None),
        };
        let scope = Scope {
            study_instance_uid: call.uid("study")?,
            series_instance_uid: optional("series")?,
            sop_instance_uid: optional("instance")?,
        };
        Ok(Self { scope })
    }

    async fn page(&self, index: &Index, after: Option<EntryId>) -> Result<Page, ApiError> {
        let rows = index.instances(&self.scope, after, PAGE).await?;
        let next = if rows.len() < PAGE { None } else { rows.last().map(|located| located.entry) };
        Ok(Page { rows, next })
    }

    /// The page after the one that named `next`; nothing after the last.
    async fn page_after(&self, index: &Index, next: Option<EntryId>) -> Result<Option<Page>, ApiError> {
        match next {
            Some(next) => self.page(index, Some(next)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Those that are held, `first` and what follows it, page after page; an error in the place of one that is damaged.
    pub fn held(
        self,
        state: &HttpState,
        first: Page,
    ) -> impl Stream<Item = Result<Located, ApiError>> + Send + 'static {
        let (index, spool) = (state.index.clone(), state.spool.clone());
        let later = stream::try_unfold(first.next, move |next| {
            let (resource, index) = (self.clone(), index.clone());
            async move {
                let page = resource.page_after(&index, next).await?;
                Ok::<_, ApiError>(page.map(|page| (page.rows, page.next)))
            }
        });
        let rows = stream::once(ready(Ok(first.rows))).chain(later);
        rows.map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
            .try_flatten()
            .try_filter(|located| ready(located.freed.is_none()))
            .and_then(move |located| ready(sound(&spool, &located).map(|()| located)))
    }

    /// Goes through all of it once, so that the status tells the truth of the whole; an error where nothing of it can
    /// be sent.
    pub async fn survey(&self, index: &Index, admits: impl Fn(&Located) -> bool) -> Result<Survey, ApiError> {
        let first = self.page(index, None).await?;
        let mut survey =
            Survey { first, admitted: 0, unacceptable: 0, syntaxes: BTreeSet::new(), freed: 0, went: None };
        let mut next = survey.first.next;
        for located in std::mem::take(&mut survey.first.rows) {
            survey.count(&located, &admits);
            survey.first.rows.push(located);
        }
        while let Some(page) = self.page_after(index, next).await? {
            page.rows.iter().for_each(|located| survey.count(located, &admits));
            next = page.next;
        }
        survey.check()?;
        Ok(survey)
    }
}

impl Survey {
    fn count(&mut self, located: &Located, admits: &impl Fn(&Located) -> bool) {
        if let Some(went) = &located.freed {
            self.freed += 1;
            self.went.get_or_insert_with(|| went.clone());
        } else if admits(located) {
            self.admitted += 1;
        } else {
            self.unacceptable += 1;
            self.syntaxes.insert(located.transfer_syntax_uid.clone());
        }
    }

    /// PS3.18 table 10.4.3.3-1, where nothing can be sent.
    fn check(&self) -> Result<(), ApiError> {
        if self.admitted > 0 {
            return Ok(());
        }
        if self.unacceptable > 0 {
            let stored: Vec<String> = self.syntaxes.iter().map(|uid| named(uid)).collect();
            return Err(ApiError::not_acceptable(format!(
                "Stored as {}; add transfer-syntax=* to the accepted media type to take it as it is.",
                stored.join(", ")
            )));
        }
        match &self.went {
            Some(went) => Err(ApiError::new(
                StatusCode::GONE,
                "INSTANCE_FREED",
                format!("Its bytes were freed after delivery to {went}."),
            )),
            None => Err(ApiError::not_found()),
        }
    }

    pub fn is_partial(&self) -> bool {
        self.unacceptable + self.freed > 0
    }
}

fn named(uid: &str) -> String {
    match TransferSyntax::by_uid(uid) {
        Some(syntax) => format!("{} ({uid})", syntax.name),
        None => uid.to_owned(),
    }
}

/// PS3.18 §10.4.3.3: 206 when only some of what was asked for is sent; a Warning says why.
pub fn partial_content(response: &mut Response, survey: &Survey) {
    response.set_status(StatusCode::PARTIAL_CONTENT);
    let warning = format!(
        "299 - \"{} instances are not included: {} in other transfer syntaxes, {} freed after delivery\"",
        survey.unacceptable + survey.freed,
        survey.unacceptable,
        survey.freed
    );
    if let Ok(value) = HeaderValue::from_str(&warning) {
        response.headers_mut().append(header::WARNING, value);
    }
}

/// Refuses an object that is known to be damaged: nothing of it is passed off as good, not even what is kept of it.
pub fn sound(spool: &Spool, located: &Located) -> Result<(), ApiError> {
    if !spool.is_damaged(located.entry) {
        return Ok(());
    }
    let detail = "its bytes are not those that were received".to_owned();
    Err(ReadError::Spool(SpoolError::Damaged { id: located.entry, detail }).answer(located.entry))
}

/// What was opened as `located`. After a loss the index may still have a number for an object that now is another's.
pub fn same(opened: Result<ObjectReader, SpoolError>, located: &Located) -> Result<ObjectReader, ApiError> {
    let opened =
        opened.and_then(|object| match object.entry.key.sop_instance_uid == located.key.sop_instance_uid {
            true => Ok(object),
            false => Err(SpoolError::Unknown(located.entry)),
        });
    opened.map_err(|error| ReadError::from(error).answer(located.entry))
}

/// Items of which the first is there before the status is answered: an object may have been freed since the index was
/// asked.
pub async fn begun<S, T>(items: S) -> Result<Pin<Box<Peekable<S>>>, ApiError>
where
    S: Stream<Item = Result<T, ApiError>>,
{
    let mut items = Box::pin(items.peekable());
    if let Some(Err(error)) = items.as_mut().next_if(Result::is_err).await {
        return Err(error);
    }
    match items.as_mut().peek().await {
        Some(_) => Ok(items),
        None => Err(ApiError::freed()),
    }
}

/// Why a stored object could not be read again.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl ReadError {
    /// As the answer to a request. What we acknowledged and can't read is told of: somebody must look.
    pub fn answer(self, entry: EntryId) -> ApiError {
        match self {
            ReadError::Spool(error @ (SpoolError::Freed(_) | SpoolError::Unknown(_))) => {
                tracing::info!(%entry, "an object was freed after the index was asked for it");
                error.into()
            }
            error => {
                tracing::error!(%entry, %error, "a stored object can't be read");
                ApiError::internal()
            }
        }
    }
}

impl Located {
    /// Where this instance is retrieved.
    pub fn url(&self, dicomweb_url: &str) -> String {
        format!(
            "{dicomweb_url}/studies/{}/series/{}/instances/{}",
            self.key.study_instance_uid, self.key.series_instance_uid, self.key.sop_instance_uid
        )
    }
}
