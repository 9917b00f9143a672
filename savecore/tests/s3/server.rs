//! A real S3 server over a folder, in this process, with faults on the way to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const BUCKET: &str = "crashes";

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It goes through.
    None,
    /// The server answers with that status.
    Status(u16),
    /// The server answers that there is no such bucket.
    NoBucket,
    /// The server answers that the credentials have expired, as AWS does.
    Expired,
    /// The server answers that the clocks differ too much.
    Skewed,
    /// A bit of the body changes on the way.
    Corrupt,
    /// The connection breaks, and so do all others until [`Server::revive`].
    Die,
    /// The connection breaks, and so do all later ones; requests that began earlier are done and answered.
    Drain,
    /// The request is done, then as with `Die`.
    DieBehind,
}

/// Selects the requests that a fault is for, by method, path and query.
type Chosen = Box<dyn Fn(&str) -> bool + Send>;

#[derive(Default)]
struct Way {
    is_dead: bool,
    /// New requests fail.
    is_drained: bool,
    /// All requests that went through, as `METHOD /path?query`.
    seen: Vec<String>,
    faults: Vec<(Chosen, VecDeque<Fault>)>,
}

pub(crate) struct Server {
    /// Dropped with the server, and all connections with it.
    _runtime: Runtime,
    way: Arc<Mutex<Way>>,
    address: SocketAddr,
    root: TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        let root = TempDir::new().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("who", "secret"));
        let service = builder.build();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(Mutex::new(Way::default()));
        let shared = Arc::clone(&way);
        runtime.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (way, service) = (Arc::clone(&shared), service.clone());
                let answer = move |request| answer(Arc::clone(&way), service.clone(), request);
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), hyper::service::service_fn(answer));
                tokio::spawn(connection);
            }
        });
        Server { _runtime: runtime, way, address, root }
    }

    /// The server's address.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The environment variables of a user of the server.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        Server::environment_for(&self.endpoint())
    }

    /// The environment variables of a user of the server at that address.
    pub(crate) fn environment_for(endpoint: &str) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", "who"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// The folder with everything that the server keeps.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The bucket on the server's disk.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.root().join(BUCKET)
    }

    /// All objects, sorted.
    pub(crate) fn objects(&self) -> Vec<String> {
        fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, all) } else { all.push(path) }
            }
        }
        let (bucket, mut all) = (self.bucket(), Vec::new());
        walk(&bucket, &mut all);
        let shown = |path: &PathBuf| path.strip_prefix(&bucket).unwrap().display().to_string();
        let mut all: Vec<String> = all.iter().map(shown).collect();
        all.sort();
        all
    }

    /// Injects these faults into the requests that `chosen` selects, one each; later ones go through.
    pub(crate) fn fault(
        &self,
        chosen: impl Fn(&str) -> bool + Send + 'static,
        faults: impl IntoIterator<Item = Fault>,
    ) {
        self.way.lock().unwrap().faults.push((Box::new(chosen), faults.into_iter().collect()));
    }

    /// From now on all requests go through.
    pub(crate) fn revive(&self) {
        let mut way = self.way.lock().unwrap();
        (way.is_dead, way.is_drained) = (false, false);
        way.faults.clear();
    }

    /// How many requests with `part` in their text went through since the last call.
    pub(crate) fn seen(&self, part: &str) -> usize {
        let seen = std::mem::take(&mut self.way.lock().unwrap().seen);
        seen.iter().filter(|request| request.contains(part)).count()
    }
}

async fn answer(
    way: Arc<Mutex<Way>>,
    service: S3Service,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let shown = format!("{} {}", request.method(), request.uri());
    let fault = {
        let mut way = way.lock().unwrap();
        let chosen = way.faults.iter_mut().find(|(chosen, faults)| !faults.is_empty() && chosen(&shown));
        let fault = chosen.and_then(|(_, faults)| faults.pop_front()).unwrap_or(Fault::None);
        way.is_dead |= fault == Fault::Die;
        way.is_drained |= fault == Fault::Drain;
        if way.is_dead || way.is_drained {
            return Err(broken());
        }
        fault
    };
    let mut request = request.map(Body::from);
    match fault {
        Fault::Status(status) => {
            let body = Body::from("<Error><Code>SlowDown</Code><Message>Later</Message></Error>".to_owned());
            return Ok(Response::builder().status(status).body(body).unwrap());
        }
        Fault::NoBucket => {
            let body = Body::from("<Error><Code>NoSuchBucket</Code></Error>".to_owned());
            return Ok(Response::builder().status(404).body(body).unwrap());
        }
        Fault::Expired => {
            // The answer waits for the whole request: a client that is still writing would only see a broken
            // connection.
            let _ = request.body_mut().store_all_limited(1 << 30).await;
            let text =
                "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
            return Ok(Response::builder().status(400).body(Body::from(text.to_owned())).unwrap());
        }
        Fault::Skewed => {
            let text = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>";
            return Ok(Response::builder().status(403).body(Body::from(text.to_owned())).unwrap());
        }
        Fault::Corrupt => {
            let mut body = request.body_mut().store_all_limited(1 << 30).await.unwrap().to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 4;
            *request.body_mut() = Body::from(body);
        }
        _ => {}
    }
    let response = service.call(request).await.map_err(std::io::Error::other);
    let mut way = way.lock().unwrap();
    way.is_dead |= fault == Fault::DieBehind;
    if way.is_dead {
        return Err(broken());
    }
    way.seen.push(shown);
    response
}
