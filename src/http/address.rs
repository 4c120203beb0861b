//! Where a request comes from.
//!
//! That is the peer of the connection, unless the operator has named it as a proxy (`trusted_proxies`): then it is what the
//! proxy says, and if that is a trusted proxy again, what that one says. What nobody trusted says is not believed.

use std::net::{IpAddr, SocketAddr};

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;

use crate::config::{Config, ForwardedHeader, Networks};

/// The address of whoever asks; `None`: it is not known.
pub fn of(request: &HttpRequest, config: &Config) -> Option<IpAddr> {
    let peer = request.peer_addr().map(|peer| peer.ip());
    behind(peer, request.headers(), config)
}

/// The same, from the parts of a request.
pub fn behind(peer: Option<IpAddr>, headers: &HeaderMap, config: &Config) -> Option<IpAddr> {
    let peer = peer?.to_canonical();
    Some(said_by(peer, headers, &config.trusted_proxies, config.forwarded_header))
}

/// Whether the request was passed on by somebody whom nobody trusts.
pub fn is_passed_on_by_a_stranger(request: &HttpRequest, trusted: &Networks) -> bool {
    let headers = request.headers();
    let names = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
    let is_passed_on = names.iter().any(|header| headers.contains_key(header.word()));
    is_passed_on
        && request
            .peer_addr()
            .is_some_and(|peer| !trusted.contain(peer.ip().to_canonical()))
}

fn said_by(peer: IpAddr, headers: &HeaderMap, trusted: &Networks, header: ForwardedHeader) -> IpAddr {
    let mut known = peer;
    // Each proxy appends whom it was asked by: the last one is what the nearest says.
    let lines: Vec<&str> = headers
        .get_all(header.word())
        .filter_map(|line| line.to_str().ok())
        .collect();
    for said in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !trusted.contain(known) {
            break;
        }
        let said = match header {
            ForwardedHeader::XForwardedFor => address(said.trim()),
            ForwardedHeader::Forwarded => for_of(said),
        };
        // Before what is no address nobody knows who it was.
        let Some(said) = said else { break };
        known = said;
    }
    known
}

/// The `for` of one element (RFC 7239, section 4).
fn for_of(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

/// An address, perhaps with a port, perhaps in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = plain.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn found(peer: &str, header: ForwardedHeader, lines: &[&str]) -> String {
        let trusted: Networks = "10.0.0.0/8, 2001:db8::/32, 127.0.0.1".parse().expect("networks");
        let mut headers = HeaderMap::new();
        for line in lines {
            let name = HeaderName::from_static(header.word());
            headers.append(name, HeaderValue::from_str(line).expect("a value"));
        }
        said_by(peer.parse().expect("an address"), &headers, &trusted, header).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
        let x = |peer, lines: &[&str]| found(peer, ForwardedHeader::XForwardedFor, lines);
        assert_eq!(x("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(x("10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(x("192.0.2.1", &["198.51.100.9"]), "192.0.2.1", "nobody asked it");
        // The client wrote the first one itself.
        assert_eq!(x("10.0.0.1", &["198.51.100.9, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(x("127.0.0.1", &["192.0.2.7, 10.0.0.2, 10.0.0.3"]), "192.0.2.7");
        assert_eq!(
            x("10.0.0.1", &["192.0.2.7", "10.0.0.2"]),
            "192.0.2.7",
            "two lines are one list"
        );
        assert_eq!(x("10.0.0.1", &["192.0.2.7:4711"]), "192.0.2.7");
        assert_eq!(x("10.0.0.1", &["[2001:db9::7]:4711"]), "2001:db9::7");
        assert_eq!(x("2001:db8::1", &["::ffff:192.0.2.7"]), "192.0.2.7");
        assert_eq!(x("10.0.0.1", &["192.0.2.7, unknown"]), "10.0.0.1");
        assert_eq!(x("10.0.0.1", &["10.0.0.9"]), "10.0.0.9", "it asks for itself");
    }

    #[test]
    fn the_header_of_the_standard_is_read_where_it_is_the_one() {
        let forwarded = |lines: &[&str]| found("10.0.0.1", ForwardedHeader::Forwarded, lines);
        assert_eq!(forwarded(&["for=192.0.2.7"]), "192.0.2.7");
        assert_eq!(
            forwarded(&["for=198.51.100.9, For=\"[2001:db9::7]:80\";proto=https"]),
            "2001:db9::7"
        );
        assert_eq!(forwarded(&["proto=https"]), "10.0.0.1");
        assert_eq!(forwarded(&["for=_hidden"]), "10.0.0.1");
    }
}
