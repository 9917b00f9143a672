//! One bucket or container of an object store, with a blocking interface.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use tokio::runtime::Runtime;

use super::super::error::StoreError;
use super::super::record;

/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A request may take this many times the limit for a server that does not answer: on a slow line several
/// parts are in transit for a long time.
const SLOW: u32 = 4;
/// Maximum pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// Number of tries for a part that arrived corrupted, or failed in another way that a retry may fix.
const PART_TRIES: u32 = 3;

/// Both interfaces of a store.
trait Both: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Both for T {}

/// Opens a store.
type Open = dyn Fn() -> Result<Arc<dyn Both>, Error> + Send + Sync;

/// A store that is reopened when its credentials have expired: there may be new ones.
#[derive(Clone)]
struct Connection {
    open: Arc<Open>,
    now: Arc<Mutex<Arc<dyn Both>>>,
}

impl Connection {
    fn new(open: Arc<Open>) -> Result<Connection, Error> {
        let now = Arc::new(Mutex::new(open()?));
        Ok(Connection { open, now })
    }

    fn now(&self) -> Arc<dyn Both> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reopens it, unless somebody has done so since `used` was taken. If that fails, the old one reports
    /// why.
    fn renew(&self, used: &Arc<dyn Both>) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&now, used)
            && let Ok(new) = (self.open)()
        {
            *now = new;
        }
    }
}

/// One bucket or container.
pub(super) struct Remote {
    /// Private to the store, so that callers need not know about it.
    pub(super) runtime: Runtime,
    store: Connection,
    /// Scheme and bucket, without a slash at the end.
    pub(super) bucket: String,
    patience: Duration,
}

/// The part of a remote that uploads parts, usable from any thread.
#[derive(Clone)]
pub(super) struct PartSender {
    store: Connection,
    patience: Duration,
}

/// The result of reading a small object.
pub(super) enum Found {
    Nothing,
    Bytes(Vec<u8>),
}

impl Remote {
    /// Prepares access to a bucket, with the settings and credentials in `environment`. Also returns the part
    /// of the URL after the bucket.
    pub(super) fn open(
        destination: &str,
        environment: &[(String, String)],
        patience: Duration,
    ) -> Result<(Remote, String), StoreError> {
        let unusable = |why: String| StoreError::Remote {
            what: "use",
            place: destination.to_owned(),
            why,
            next: "check the URL and the settings in the environment",
        };
        let (scheme, rest) = destination.split_once("://").unwrap_or(("", destination));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(unusable("it names no bucket".to_owned()));
        }
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: MAX_PAUSE, ..BackoffConfig::default() },
            // The time limit decides.
            max_retries: usize::MAX,
            retry_timeout: patience,
        };
        let client =
            ClientOptions::new().with_connect_timeout(CONNECT.min(patience)).with_timeout(patience * SLOW);
        if !["s3", "gs", "az"].contains(&scheme) {
            return Err(StoreError::Scheme { scheme: super::names::harmless(scheme) });
        }
        let (kind, name, environment) = (scheme.to_owned(), bucket.to_owned(), environment.to_vec());
        let open = move || connect(&kind, &name, &environment, client.clone(), retry.clone());
        let store = Connection::new(Arc::new(open)).map_err(|error| unusable(reason(&error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let bucket = format!("{scheme}://{bucket}");
        Ok((Remote { runtime, store, bucket, patience }, prefix.to_owned()))
    }

    /// An object's name in messages.
    pub(super) fn shown(&self, path: &Path) -> String {
        format!("{}/{path}", self.bucket)
    }

    /// Turns a failed operation on an object into an error.
    pub(super) fn failed(&self, what: &'static str, path: &Path) -> impl FnOnce(Error) -> StoreError {
        let place = self.shown(path);
        move |error| {
            let next = match error {
                _ if is_expired(&error) => {
                    "the credentials expired: renew them and try again; the upload resumes"
                }
                _ if told(&error).contains("RequestTimeTooSkewed") => {
                    "set the clock of this machine, and try again"
                }
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                    "check the credentials in the environment"
                }
                _ => "try again: the upload resumes",
            };
            StoreError::Remote { what, place, why: reason(&error), next }
        }
    }

    /// Sends a request, and repeats it with new credentials if they have expired.
    fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        request: impl Fn(Arc<dyn Both>) -> F,
    ) -> Result<T, Error> {
        let store = self.store.now();
        match self.runtime.block_on(request(Arc::clone(&store))) {
            Err(error) if is_expired(&error) => {
                self.store.renew(&store);
                self.runtime.block_on(request(self.store.now()))
            }
            result => result,
        }
    }

    /// Reads a small object.
    pub(super) fn get(&self, path: &Path) -> Result<Found, StoreError> {
        let read = |store: Arc<dyn Both>| async move {
            let got = store.get(path).await?;
            if got.meta.size > record::MAX_BYTES {
                return Ok(Found::Bytes(Vec::new()));
            }
            Ok(Found::Bytes(got.bytes().await?.into()))
        };
        match self.ask(read) {
            Err(Error::NotFound { source, .. }) if !tells_of_bucket(&source.to_string()) => {
                Ok(Found::Nothing)
            }
            result => result.map_err(self.failed("read", path)),
        }
    }

    /// The length of an object; `None` if there is none.
    pub(super) fn length(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        let head = |store: Arc<dyn Both>| async move { store.head(path).await };
        let mut answer = self.ask(head);
        // A response to HEAD has no text with the reason. Expired credentials look like this.
        if answer.as_ref().is_err_and(|error| told(error).contains("400 Bad Request")) {
            self.store.renew(&self.store.now());
            answer = self.ask(head);
        }
        match answer {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look at", path)(error)),
        }
    }

    /// Writes an object in one piece.
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), StoreError> {
        let payload = PutPayload::from(bytes);
        let mut tries = Tries::new(self.patience);
        loop {
            let payload = &payload;
            match self.ask(|store| async move { store.put(path, payload.clone()).await }) {
                Ok(_) => return Ok(()),
                Err(error) if tries.is_over(&error) => return Err(self.failed("write", path)(error)),
                Err(_) => self.runtime.block_on(tries.pause()),
            }
        }
    }

    /// Creates an object unless it exists; returns whether it did. If the store cannot do that atomically,
    /// checks first.
    pub(super) fn put_new(&self, path: &Path, bytes: Vec<u8>) -> Result<bool, StoreError> {
        let payload = &PutPayload::from(bytes.clone());
        let put = |store: Arc<dyn Both>| async move {
            store.put_opts(path, payload.clone(), PutOptions::from(PutMode::Create)).await
        };
        match self.ask(put) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                if self.length(path)?.is_some() {
                    return Ok(false);
                }
                self.put(path, bytes).map(|()| true)
            }
            Err(error) => Err(self.failed("write", path)(error)),
        }
    }

    pub(super) fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match self.ask(|store| async move { store.delete(path).await }) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", path)(error)),
        }
    }

    pub(super) fn begin_upload(&self, path: &Path) -> Result<String, StoreError> {
        self.ask(|store| async move { store.create_multipart(path).await })
            .map_err(self.failed("begin the upload of", path))
    }

    /// Discards the parts of an upload. A failure is harmless: stores clean up by rules of their own.
    pub(super) fn abort_upload(&self, path: &Path, upload: &str) {
        let upload = &upload.to_owned();
        let _ = self.ask(|store| async move { store.abort_multipart(path, upload).await });
    }

    /// Completes an upload from its parts.
    pub(super) fn complete_upload(&self, path: &Path, upload: &str, parts: Vec<String>) -> Result<(), Error> {
        let parts: &Vec<PartId> = &parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let upload = &upload.to_owned();
        let complete =
            |store: Arc<dyn Both>| async move { store.complete_multipart(path, upload, parts.clone()).await };
        self.ask(complete).map(|_| ())
    }

    pub(super) fn sender(&self) -> PartSender {
        PartSender { store: self.store.clone(), patience: self.patience }
    }
}

/// Opens a bucket or container.
fn connect(
    scheme: &str,
    bucket: &str,
    environment: &[(String, String)],
    client: ClientOptions,
    retry: RetryConfig,
) -> Result<Arc<dyn Both>, Error> {
    let settings = |prefix: &'static str| {
        environment
            .iter()
            .filter(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.to_ascii_lowercase(), value.clone()))
    };
    match scheme {
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry);
            for (key, value) in settings("GOOGLE_").chain(settings("SERVICE_ACCOUNT")) {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            builder.with_bucket_name(bucket).build().map(|store| Arc::new(store) as _)
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry);
            for (key, value) in settings("AZURE_").chain(settings("IDENTITY_ENDPOINT")) {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            builder.with_container_name(bucket).build().map(|store| Arc::new(store) as _)
        }
        _ => {
            // The server verifies every part and file before accepting it.
            let mut builder = AmazonS3Builder::new()
                .with_client_options(client)
                .with_retry(retry)
                .with_checksum_algorithm(Checksum::SHA256);
            for (key, value) in settings("AWS_") {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
                builder = builder.with_region("us-east-1");
            }
            builder.with_bucket_name(bucket).build().map(|store| Arc::new(store) as _)
        }
    }
}

impl PartSender {
    /// Uploads a part; returns its id in the store.
    pub(super) async fn send(
        &self,
        path: &Path,
        upload: &str,
        index: u64,
        payload: PutPayload,
    ) -> Result<String, Error> {
        let mut tries = Tries::new(self.patience);
        let upload = upload.to_owned();
        loop {
            let store = self.store.now();
            match store.put_part(path, &upload, index as usize, payload.clone()).await {
                Ok(part) => return Ok(part.content_id),
                Err(error) if tries.is_over(&error) => return Err(error),
                Err(error) => {
                    if is_expired(&error) {
                        self.store.renew(&store);
                    }
                    tries.pause().await;
                }
            }
        }
    }
}

/// Number of retries after the server reported corruption. Failures of the server or the network are retried
/// below, until their time limit.
struct Tries {
    left: u32,
    until: Instant,
}

impl Tries {
    fn new(patience: Duration) -> Tries {
        Tries { left: PART_TRIES - 1, until: Instant::now() + patience }
    }

    fn is_over(&mut self, error: &Error) -> bool {
        let may_mend = is_expired(error) || (matches!(error, Error::Generic { .. }) && !is_lost(error));
        if !may_mend || self.left == 0 || Instant::now() >= self.until {
            return true;
        }
        self.left -= 1;
        false
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether the store does not know an upload, because it was aborted, completed, or expired.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) || told(error).contains("NoSuchUpload")
}

/// Whether the store understood and refused, because of the user or the request.
pub(super) fn is_refusal(error: &Error) -> bool {
    let no = matches!(
        error,
        Error::PermissionDenied { .. } | Error::Precondition { .. } | Error::AlreadyExists { .. }
    );
    no || ["InvalidPart", "InvalidRequest", "InvalidBlock"].iter().any(|word| told(error).contains(word))
}

/// Whether credentials have expired. There may be new ones.
fn is_expired(error: &Error) -> bool {
    let text = told(error);
    let words = ["ExpiredToken", "RequestExpired", "TokenRefreshRequired", "ExpiredAuthenticationToken"];
    words.iter().any(|word| text.contains(word))
}

fn tells_of_bucket(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]
        .iter()
        .any(|word| text.contains(word))
}

/// The texts of an error and its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The reason of a failure, in a few words on one line: the server's text, or else the last cause.
fn reason(error: &Error) -> String {
    let text = told(error);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    };
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let why = match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("the server says {code}, {message}"),
        (Some(code), None) => format!("the server says {code}"),
        _ => last.to_string(),
    };
    one_line(&why)
}

/// A server's text without control characters, shortened.
fn one_line(text: &str) -> String {
    const MOST: usize = 240;
    let words: Vec<&str> = text.split(|character: char| character.is_control() || character == ' ').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    let line = line.trim_end_matches(['.', ':']);
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_server_says_is_one_short_line(text: String) {
            let line = one_line(&text);
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(line.chars().count() <= 241);
        }
    }

    #[test]
    fn what_the_server_says_is_the_reason() {
        let source = "status 403: <?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access\nDenied.</Message></Error>";
        let error = Error::Generic { store: "S3", source: source.into() };
        assert_eq!(reason(&error), "the server says AccessDenied, Access Denied");
    }
}
