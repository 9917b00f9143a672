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

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It goes through.
    None,
    /// The server answers with that status.
    Status(u16),
    /// The server answers that there is no such bucket.
    NoBucket,
    /// The server answers that the credentials have run out, as AWS does.
    Expired,
    /// The server answers that the clocks differ too much.
    Skewed,
    /// A bit of the body changes on the way.
    Corrupt,
    /// The connection breaks, and so do all others until [`Server::revive`].
    Die,
    /// The connection breaks, and so do all that come later; what was begun before is done and answered.
    Drain,
    /// What was asked is done, and then as with `Die`.
    DieBehind,
}

/// Which requests a fault is for, by method, path and query.
type Chosen = Box<dyn Fn(&str) -> bool + Send>;

#[derive(Default)]
struct Way {
    is_dead: bool,
    /// Nothing new is taken.
    is_drained: bool,
    /// All that went through, as `METHOD /path?query`.
    seen: Vec<String>,
    faults: Vec<(Chosen, VecDeque<Fault>)>,
}

pub(crate) struct Server {
    /// Gone with the server, and with it all connections.
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

    /// What a user of the server would have in the environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        Server::environment_for(&self.endpoint())
    }

    /// What a user of the server at that address would have in the environment.
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

    /// The folder with all that the server keeps.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The bucket as it lies on the server's disk.
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

    /// Meets the requests that `chosen` chooses with these faults, one each; later ones go through.
    pub(crate) fn fault(
        &self,
        chosen: impl Fn(&str) -> bool + Send + 'static,
        faults: impl IntoIterator<Item = Fault>,
    ) {
        self.way.lock().unwrap().faults.push((Box::new(chosen), faults.into_iter().collect()));
    }

    /// All is well again.
    pub(crate) fn revive(&self) {
        let mut way = self.way.lock().unwrap();
        (way.is_dead, way.is_drained) = (false, false);
        way.faults.clear();
    }

    /// How many requests went through, since the last call, whose text contains `part`.
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
            // It is answered when all of it is there: who is still writing sees a broken connection only.
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
