//! Answers that are compressed for who takes that: with Zstandard, Brotli or gzip.
//!
//! What is small is not worth it, and what has a strong tag is not touched: the tag is of the bytes. Event streams are not
//! compressed either: each event has to leave at once.

use std::io::Write as _;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, Stream, StreamExt as _};
use zstd::stream::write::Encoder as ZstdEncoder;
use zstd::zstd_safe::CParameter;

/// Below this the head of an answer is the larger part.
const BYTES_MIN: usize = 1_024;

/// Above this a whole answer would hold up the others of its worker for milliseconds.
const BYTES_MAX: usize = 256 * 1024;

/// Of 0 to 11: above it brotli looks for repeats more thoroughly, and is several times slower for a few percent.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW: u32 = 19;
const BROTLI_BUFFER: usize = 4_096;

/// Of 1 to 22: what the library itself takes for a good balance. An eighth of Brotli's time for as many bytes.
const ZSTD_LEVEL: i32 = 3;
/// As large as Brotli's: 512 KiB, so that an encoder has less than a megabyte.
const ZSTD_WINDOW: u32 = 19;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coding {
    // From the dearest to the cheapest: what stands last is taken first.
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The best of what the client takes (RFC 9110, section 12.5.3).
    fn wanted(headers: &HeaderMap) -> Option<Self> {
        let mut wanted = None;
        let lines = headers.get_all(header::ACCEPT_ENCODING);
        for offer in lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
        {
            let (name, parameters) = offer.split_once(';').unwrap_or((offer, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
            if weight.is_ok_and(|weight| weight > 0.0) {
                let coding = match name.trim() {
                    "zstd" => Some(Self::Zstd),
                    "br" => Some(Self::Brotli),
                    "gzip" | "x-gzip" => Some(Self::Gzip),
                    _ => None,
                };
                wanted = wanted.max(coding);
            }
        }
        wanted
    }
}

/// Compresses piece by piece.
enum Encoder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    /// For so many bytes, if that is known: tables of half a megabyte are not for a page of tasks.
    fn new(coding: Coding, size: Option<usize>) -> Self {
        match coding {
            Coding::Brotli => {
                let writer = CompressorWriter::new(Vec::new(), BROTLI_BUFFER, BROTLI_QUALITY, BROTLI_WINDOW);
                Self::Brotli(Box::new(writer))
            }
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Zstd => {
                let encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL).and_then(|mut encoder| {
                    encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW))?;
                    encoder.set_pledged_src_size(size.map(|size| size as u64))?;
                    Ok(encoder)
                });
                Self::Zstd(encoder.expect("level and window are within the library's bounds"))
            }
        }
    }

    /// Takes bytes, and gives what is ready. Writing into memory does not fail.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Brotli(writer) => {
                let _ = writer.write_all(bytes);
                std::mem::take(writer.get_mut())
            }
            Self::Gzip(writer) => {
                let _ = writer.write_all(bytes);
                std::mem::take(writer.get_mut())
            }
            Self::Zstd(writer) => {
                let _ = writer.write_all(bytes);
                std::mem::take(writer.get_mut())
            }
        }
    }

    fn end(self) -> Vec<u8> {
        match self {
            Self::Brotli(writer) => writer.into_inner(),
            Self::Gzip(writer) => writer.finish().unwrap_or_default(),
            Self::Zstd(writer) => writer.finish().unwrap_or_default(),
        }
    }
}

fn say(headers: &mut HeaderMap, coding: Option<Coding>) {
    // A cache must not give one to who asked for the other.
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
}

/// A whole answer, compressed if it is worth it.
pub fn whole(asked: &HeaderMap, response: HttpResponse<BoxBody>) -> HttpResponse<BoxBody> {
    let is_strong = |tag: &HeaderValue| !tag.as_bytes().starts_with(b"W/");
    let headers = response.headers();
    let is_left = response.status() != StatusCode::OK
        || headers.contains_key(header::CONTENT_ENCODING)
        || headers.get(header::ETAG).is_some_and(is_strong);
    let (response, body) = response.into_parts();
    if is_left {
        return response.set_body(body);
    }
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => return response.set_body(body),
    };
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
        return response.set_body(BoxBody::new(bytes));
    }
    let coding = Coding::wanted(asked);
    let mut response = response.set_body(BoxBody::new(match coding {
        None => bytes,
        Some(coding) => {
            let mut encoder = Encoder::new(coding, Some(bytes.len()));
            let mut all = encoder.take(&bytes);
            all.extend(encoder.end());
            Bytes::from(all)
        }
    }));
    say(response.headers_mut(), coding);
    response
}

/// An answer in pieces, compressed if the client takes that.
pub fn pieces(
    asked: &HeaderMap,
    mut response: HttpResponseBuilder,
    pieces: impl Stream<Item = Result<Bytes, actix_web::Error>> + 'static,
) -> HttpResponse {
    let Some(coding) = Coding::wanted(asked) else {
        let mut response = response.streaming(pieces);
        say(response.headers_mut(), None);
        return response;
    };
    // `None` at the end: what is left in the encoder.
    let pieces = Box::pin(pieces.map(Some).chain(stream::iter([None])));
    let compressed = stream::unfold(
        (pieces, Some(Encoder::new(coding, None))),
        |(mut pieces, mut encoder)| async move {
            loop {
                let ready = match pieces.next().await? {
                    Some(Ok(piece)) => encoder.as_mut()?.take(&piece),
                    Some(Err(error)) => return Some((Err(error), (pieces, encoder))),
                    None => encoder.take()?.end(),
                };
                if !ready.is_empty() {
                    return Some((Ok::<_, actix_web::Error>(Bytes::from(ready)), (pieces, encoder)));
                }
            }
        },
    );
    let mut response = response.streaming(compressed);
    say(response.headers_mut(), Some(coding));
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn wanted(offers: &[&str]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_str(offer).expect("a value"));
        }
        Coding::wanted(&headers)
    }

    #[test]
    fn what_the_client_takes_is_what_it_gets() {
        assert_eq!(wanted(&["gzip, deflate, br, zstd"]), Some(Coding::Zstd));
        assert_eq!(wanted(&["br, gzip, zstd;q=0"]), Some(Coding::Brotli));
        assert_eq!(wanted(&["gzip"]), Some(Coding::Gzip));
        assert_eq!(wanted(&["br;q=0, gzip;q=0.5"]), Some(Coding::Gzip));
        assert_eq!(wanted(&["deflate", "gzip"]), Some(Coding::Gzip));
        for none in [&[][..], &["identity"], &["br;q=0"], &["gzip;q=x"], &["*"]] {
            assert_eq!(wanted(none), None, "{none:?}");
        }
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let text = "{\"title\":\"Crème fraîche\"}".repeat(500);
        let codings = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
        for (coding, size) in codings
            .iter()
            .flat_map(|coding| [(coding, None), (coding, Some(text.len()))])
        {
            let mut encoder = Encoder::new(*coding, size);
            let mut bytes = Vec::new();
            for piece in text.as_bytes().chunks(777) {
                bytes.extend(encoder.take(piece));
            }
            bytes.extend(encoder.end());
            assert!(bytes.len() < text.len() / 10, "{coding:?}");
            let mut back = String::new();
            match coding {
                Coding::Brotli => brotli::Decompressor::new(&*bytes, 4_096).read_to_string(&mut back),
                Coding::Gzip => flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut back),
                Coding::Zstd => zstd::Decoder::new(&*bytes).and_then(|mut decoder| decoder.read_to_string(&mut back)),
            }
            .expect("it reads");
            assert_eq!(back, text);
        }
    }
}
