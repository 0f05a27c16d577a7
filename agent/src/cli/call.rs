//! `call`: a request to a service as the calling user's registered service, with curl's manners.
//!
//! No secret is ever an argument: the SVID and JWT-SVIDs come from the agent, keys from a file. Redirects are not followed, so
//! no credential reaches an origin that was not named.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bonafide_verifier::{
    clock::{Clock, SystemClock},
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    key_records::{CallerKey, KeyFileError, read_key_file},
    spiffe::{BundleSet, SpiffeId},
    tls::{ConnectError, Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, PROXY_AUTHORIZATION},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    Failure,
    inspect::read_bundle,
    output::printable,
    socket::{SocketArguments, refused, runtime},
};
use crate::generated::workload::{JwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient};

/// As curl, where it has the option: -X, -H, -d, -i, -f, -o. Redirects are not followed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bonafide-agent call https://config.internal:8443/v1/config/a --expect spiffe://example.org/config
  bonafide-agent call http://127.0.0.1:8080/v1/config/a --jwt spiffe://example.org/config
  bonafide-agent call http://127.0.0.1:8080/v1/config/a --key-file export.key -d @body.json -H 'content-type: application/json'

Without a certificate, from a machine without an agent:
  bonafide-agent call https://config.internal:8443/v1/config/a --expect spiffe://example.org/config \
    --bundle bundle.pem --key-file export.key

With -f: exit code 3 when the service answers 401 or 403, 4 for 429 and 503, 1 for any other answer from 400 on.")]
pub(super) struct Arguments {
    /// https:// to a service that `--expect` names; http:// to this machine alone (127.0.0.0/8, [::1], localhost).
    #[arg(value_name = "URL")]
    url: String,

    /// The SPIFFE ID that must answer; the connection is made with the SVID of the calling user's service, unless there is --bundle.
    #[arg(long, value_name = "SPIFFE-ID")]
    expect: Option<String>,

    /// Verify who answers with this trust bundle (PEM or SPIFFE JSON) and show no certificate. For a caller without one, or one that
    /// proves itself by --jwt or --key-file alone; the service must admit that.
    #[arg(long, value_name = "FILE", requires = "expect")]
    bundle: Option<PathBuf>,

    /// Send a JWT-SVID for this audience.
    #[arg(long, value_name = "AUDIENCE", conflicts_with = "key_file")]
    jwt: Option<String>,

    /// Send the API key in this file, or an HS256 token minted with the secret in it (mode 0600).
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The method. [default: GET, with -d POST]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,

    /// A header, `Name: value`; may be given several times. Credentials are no arguments: they come from --jwt or --key-file.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,

    /// The body: a text, `@FILE`, or `@-` for standard input; at most 64 MiB.
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    data: Option<String>,

    /// Print the answer's status and headers before its body.
    #[arg(short = 'i', long = "include")]
    include: bool,

    /// Fail when the answer's status is 400 or above.
    #[arg(short = 'f', long = "fail")]
    fail: bool,

    /// Write the answer into this file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,

    /// The most time for all of it, in seconds.
    #[arg(short = 'm', long = "max-time", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    max_time: u64,

    #[command(flatten)]
    socket: SocketArguments,
}

/// The largest body that is sent.
const MAX_BODY: u64 = 64 * 1024 * 1024;
/// A minted token has to reach its service and no more.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let target = Target::parse(&arguments.url, arguments.expect.as_deref())?;
    // All that can be wrong with the arguments, before anybody is asked.
    let mut request = arguments.request(&target)?;
    if let Some(mut credential) = arguments.credential()? {
        let mut value = HeaderValue::from_bytes(credential.as_bytes())
            .map_err(|_| Failure::Failed("the credential cannot stand in a header".to_owned()))?;
        zeroize::Zeroize::zeroize(&mut *credential);
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let bound = Duration::from_secs(arguments.max_time);
    runtime()?.block_on(async {
        timeout(bound, arguments.send(&target, request)).await.unwrap_or_else(|_| {
            Err(Failure::Unreachable(format!(
                "no whole answer from `{}` within {} s",
                target.authority,
                bound.as_secs()
            )))
        })
    })
}

/// Whom to call, and how.
#[derive(Debug)]
struct Target {
    uri: Uri,
    /// `host:port`, to connect to.
    authority: String,
    /// Over TLS, to this one alone.
    expect: Option<SpiffeId>,
}

impl Target {
    fn parse(url: &str, expect: Option<&str>) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("`{}`: {why}", printable(url)));
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("not a URL: {error}")))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(wrong("not a URL such as `https://config.internal:8443/v1/config`"));
        };
        if authority.as_str().contains('@') {
            return Err(wrong("a user and a password have no place in it; credentials come from --jwt or --key-file"));
        }
        let expect = expect.map(expected).transpose()?;
        let port = match (scheme, &expect) {
            (scheme, Some(_)) if *scheme == Scheme::HTTPS => 443,
            (scheme, None) if *scheme == Scheme::HTTPS => {
                return Err(wrong("name the service that must answer with --expect SPIFFE-ID"));
            }
            (scheme, _) if *scheme != Scheme::HTTP => return Err(wrong("only https and http are spoken")),
            (_, Some(_)) => return Err(wrong("--expect is for https: over http nobody proves anything")),
            (_, None) if !is_local(authority.host()) => {
                return Err(wrong(
                    "over http a credential is sent in clear, so only to this machine; use https and --expect",
                ));
            }
            (_, None) => 80,
        };
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().ends_with(':') => return Err(wrong("the port is missing")),
            None => port,
        };
        Ok(Self { authority: format!("{}:{port}", authority.host()), uri, expect })
    }
}

fn expected(text: &str) -> Result<SpiffeId, Failure> {
    let wrong = |why: String| Failure::Usage(format!("--expect=`{}`: {why}", printable(text)));
    let id = SpiffeId::parse(text).map_err(|error| wrong(error.to_string()))?;
    if id.path().is_empty() { Err(wrong("a service's SPIFFE ID has a path".to_owned())) } else { Ok(id) }
}

fn is_local(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Arguments {
    fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, Failure> {
        let body = self.data.as_deref().map(read_data).transpose()?;
        let method = match (&self.method, &body) {
            (Some(name), _) => Method::from_bytes(name.as_bytes())
                .ok()
                .filter(|method| *method != Method::CONNECT)
                .ok_or_else(|| Failure::Usage(format!("-X `{}` is no method of a request", printable(name))))?,
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|error| Failure::Usage(format!("the URL's path: {error}")))?;
        let headers = request.headers_mut();
        for text in &self.headers {
            let (name, value) = header(text)?;
            headers.append(name, value);
        }
        if !headers.contains_key(HOST) {
            let host = target.uri.authority().map_or(target.authority.as_str(), |authority| authority.as_str());
            let value = HeaderValue::from_str(host).map_err(|_| Failure::Usage("the URL's host".to_owned()))?;
            headers.insert(HOST, value);
        }
        if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        Ok(request)
    }

    /// What stands in `authorization`, if anything does.
    fn credential(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(path) = &self.key_file {
            let unusable = |error: KeyFileError| match error {
                KeyFileError::Read { .. } => Failure::Failed(error.to_string()),
                other => Failure::Usage(other.to_string()),
            };
            let text = read_key_file(path).map_err(unusable)?;
            let key = CallerKey::parse(&text)
                .map_err(|error| Failure::Usage(format!("{}:{error}", printable(&path.display().to_string()))))?;
            let value = key.authorization(TOKEN_LIFE, SystemClock.now());
            return value.map(Some).map_err(|error| Failure::Refused(error.to_string()));
        }
        let Some(audience) = &self.jwt else { return Ok(None) };
        let request = JwtsvidRequest { audience: vec![audience.clone()], spiffe_id: String::new() };
        let answer = self.socket.ask(async |channel| {
            let answer = SpiffeWorkloadApiClient::new(channel).fetch_jwtsvid(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| refused(&status))
        })?;
        match answer.svids.into_iter().next() {
            Some(svid) => Ok(Some(Zeroizing::new(format!("Bearer {}", Zeroizing::new(svid.svid).as_str())))),
            None => Err(Failure::Failed("the agent sent no JWT-SVID".to_owned())),
        }
    }

    async fn send(&self, target: &Target, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        match &target.expect {
            Some(expect) => {
                let mut options = ConnectorOptions::default();
                options.alpn = vec![b"http/1.1".to_vec()];
                let expected = PeerSet::id(expect.clone());
                let connector = match self.bundles(expect)? {
                    Some(bundles) => Connector::anonymous(&bundles, expected, options),
                    None => Connector::new(&self.identity().await?, expected, options),
                };
                let connector = connector.map_err(|error| Failure::Failed(error.to_string()))?;
                let stream = connector.connect(&target.authority).await.map_err(no_connection)?;
                self.over(stream, request).await
            }
            None => {
                let stream = TcpStream::connect(&target.authority)
                    .await
                    .map_err(|error| Failure::Unreachable(format!("no answer from `{}`: {error}", target.authority)))?;
                self.over(stream, request).await
            }
        }
    }

    /// The bundle of the trust domain that must answer, in place of an agent's.
    fn bundles(&self, expect: &SpiffeId) -> Result<Option<Identity>, Failure> {
        let Some(path) = &self.bundle else { return Ok(None) };
        let bundle = read_bundle(expect.trust_domain(), path)
            .map_err(|why| Failure::Usage(format!("--bundle=`{}`: {why}", printable(&path.display().to_string()))))?;
        let bundles = BundleSet::empty().with(Arc::new(bundle));
        Ok(Some(Identity::bundles_only(bundles, Arc::new(SystemClock))))
    }

    /// The SVID and the trust bundles of the calling user's service.
    async fn identity(&self) -> Result<Identity, Failure> {
        let path = self.socket.path()?;
        let endpoint = Endpoint::parse(&format!("unix://{}", path.display()))
            .map_err(|error| Failure::Usage(format!("the agent's socket: {error}")))?;
        let identity = Identity::spawn(&WorkloadApi::at(endpoint), Arc::new(SystemClock));
        match identity.ready(self.socket.timeout()).await {
            Ok(_) => Ok(identity),
            Err(not_ready) => Err(Failure::Unreachable(format!(
                "no identity from the agent at `{}`: {not_ready}; `bonafide-agent whoami` shows which this process has",
                path.display()
            ))),
        }
    }

    async fn over<T>(&self, stream: T, request: Request<Full<Bytes>>) -> Result<(), Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| Failure::Unreachable(format!("the connection broke: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let asked = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            self.print(answer).await
        };
        // The connection is driven here, so that nothing is left behind.
        let mut asked = std::pin::pin!(asked);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            done = &mut asked => return done,
            _ = &mut connection => {}
        }
        asked.await
    }

    async fn print(&self, answer: Response<Incoming>) -> Result<(), Failure> {
        let (head, mut body) = answer.into_parts();
        let mut to = Sink::open(self.output.as_deref())?;
        if self.include {
            let mut text = format!("{:?} {}\r\n", head.version, head.status);
            for (name, value) in &head.headers {
                text.push_str(&format!("{name}: {}\r\n", printable(&String::from_utf8_lossy(value.as_bytes()))));
            }
            to.write(format!("{text}\r\n").as_bytes())?;
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Unreachable(format!("the answer broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                to.write(&data)?;
            }
        }
        to.close()?;
        let text = || format!("the service answered {}", head.status);
        match head.status.as_u16() {
            status if !self.fail || status < 400 => Ok(()),
            401 | 403 => Err(Failure::Refused(text())),
            429 | 503 => Err(Failure::Unreachable(text())),
            _ => Err(Failure::Failed(text())),
        }
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    // What is wrong with it is not quoted: it could be a secret after all.
    let wrong = || Failure::Usage("-H takes `Name: value`".to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    if [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(&name) {
        return Err(Failure::Usage(format!(
            "-H `{name}`: everybody on this machine can read arguments; credentials come from --jwt or --key-file"
        )));
    }
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?))
}

fn read_data(data: &str) -> Result<Bytes, Failure> {
    let Some(name) = data.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(data.as_bytes())) };
    let mut bytes = Vec::new();
    let read = match name {
        "-" => io::stdin().lock().take(MAX_BODY + 1).read_to_end(&mut bytes),
        name => std::fs::File::open(name).and_then(|file| file.take(MAX_BODY + 1).read_to_end(&mut bytes)),
    };
    let read = read.map_err(|error| Failure::Failed(format!("cannot read `{}`: {error}", printable(name))))?;
    if read as u64 > MAX_BODY {
        return Err(Failure::Usage(format!("`{}` has more than {MAX_BODY} bytes", printable(name))));
    }
    Ok(bytes.into())
}

fn no_connection(error: ConnectError) -> Failure {
    match error {
        ConnectError::Address { .. } => Failure::Usage(error.to_string()),
        refused if refused.is_refusal() => Failure::Refused(refused.to_string()),
        other => Failure::Unreachable(other.to_string()),
    }
}

/// Where the answer goes.
enum Sink {
    Stdout(io::Stdout),
    File(std::fs::File, PathBuf),
}

impl Sink {
    /// A file of which nobody else can read what a service said to its caller.
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Stdout(io::stdout())) };
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        file.map(|file| Self::File(file, path.to_owned()))
            .map_err(|error| Failure::Failed(format!("cannot create `{}`: {error}", path.display())))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes).map_err(cannot_print),
            Self::File(file, path) => file
                .write_all(bytes)
                .map_err(|error| Failure::Failed(format!("cannot write `{}`: {error}", path.display()))),
        }
    }

    fn close(mut self) -> Result<(), Failure> {
        match &mut self {
            Self::Stdout(stdout) => stdout.flush().map_err(cannot_print),
            Self::File(..) => Ok(()),
        }
    }
}

fn cannot_print(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Failed(format!("cannot write to standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_it_calls_and_whom_not() {
        let photo = Some("spiffe://example.org/photo");
        for (url, expect, found) in [
            ("https://photo:8443/a?b=c", photo, Ok("photo:8443")),
            ("https://photo", photo, Ok("photo:443")),
            ("https://[2001:db8::1]:1/", photo, Ok("[2001:db8::1]:1")),
            ("http://127.0.0.1:8080/a", None, Ok("127.0.0.1:8080")),
            ("http://[::1]/a", None, Ok("[::1]:80")),
            ("http://localhost/a", None, Ok("localhost:80")),
            ("https://photo/", None, Err("--expect")),
            ("http://photo/", None, Err("in clear")),
            ("http://127.0.0.1.example.org/", None, Err("in clear")),
            ("http://127.0.0.1/", photo, Err("over http nobody proves")),
            ("https://user:secret@photo/", photo, Err("no place in it")),
            ("ftp://photo/", None, Err("only https and http")),
            ("photo", photo, Err("not a URL")),
            ("/a", photo, Err("not a URL")),
            ("https://photo/", Some("spiffe://example.org"), Err("has a path")),
            ("https://photo/", Some("photo"), Err("--expect=`photo`")),
        ] {
            match (Target::parse(url, expect), found) {
                (Ok(target), Ok(authority)) => assert_eq!(target.authority, authority, "{url}"),
                (Err(Failure::Usage(text)), Err(part)) => assert!(text.contains(part), "{url}: {text}"),
                (other, _) => panic!("{url}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_credential_is_no_argument_and_no_refusal_quotes_one() {
        for text in [
            "Authorization: Bearer s3cret",
            "cookie: s3cret",
            "PROXY-authorization:s3cret",
            "s3cret",
            "a b: s3cret",
            "a: s3\ncret",
        ] {
            let Err(Failure::Usage(text)) = header(text) else { panic!("{text}") };
            assert!(!text.contains("s3"), "{text}");
        }
        let (name, value) = header("X-Trace:  a b ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-trace", "a b"));
    }
}
