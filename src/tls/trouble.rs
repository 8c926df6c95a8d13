//! Why a connection to a server came to nothing, where TLS is why: in words, with what to do.
//!
//! Used by the commands and by the canary. What a library reports is an error at the bottom of a
//! chain of others; alerts are what the server says of us, and come after our own side believes
//! that all is well.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage};

/// What stands before the alert that was received.
const ALERT: &str = "received fatal alert: ";
/// What a server says of the certificate that it was shown.
const ALERTS: [AlertDescription; 8] = [
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::CertificateExpired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRevoked,
    AlertDescription::DecryptError,
];

/// What is wrong, if TLS is.
#[must_use]
pub fn trouble(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = of(error) {
            return Some(words(found));
        }
        if let Some(alert) = alert_in(&error.to_string()) {
            return Some(of_ours(alert));
        }
        next = error.source();
    }
    None
}

/// The alert that a text ends in: HTTP/2 keeps of an error of the connection what it says alone.
fn alert_in(text: &str) -> Option<AlertDescription> {
    let (_, name) = text.rsplit_once(ALERT)?;
    ALERTS
        .into_iter()
        .find(|alert| format!("{alert:?}") == name)
}

/// The error of TLS that this one is, or has in it without calling it its source.
fn of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e TlsError> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inner: &(dyn Error + 'static) = error.downcast_ref::<io::Error>()?.get_ref()?;
    of(inner)
}

fn words(error: &TlsError) -> String {
    let said = match error {
        TlsError::InvalidCertificate(why) => return of_theirs(why),
        TlsError::AlertReceived(alert) => return of_ours(*alert),
        TlsError::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "no TLS is spoken there; a server without it is http://HOST:PORT",
        TlsError::PeerIncompatible(_) => "no version or cipher in common with the server",
        other => return format!("TLS failed: {other}"),
    };
    said.to_owned()
}

fn of_theirs(why: &CertificateError) -> String {
    let said = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is not signed by an authority of --ca-file"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            return format!("the server's certificate is for another name: {why}");
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; is the clock right?"
        }
        other => return format!("the server's certificate is not accepted: {other}"),
    };
    said.to_owned()
}

fn of_ours(alert: AlertDescription) -> String {
    let said = match alert {
        AlertDescription::CertificateRequired => {
            "the server asks for a client certificate: give --cert-file and --cert-key-file"
        }
        AlertDescription::UnknownCA => {
            "the server does not know the authority of our client certificate"
        }
        AlertDescription::CertificateExpired => "our client certificate has expired",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::DecryptError => "the server does not accept our client certificate",
        AlertDescription::ProtocolVersion => {
            "the server wants a newer version of TLS than we were allowed"
        }
        AlertDescription::NoApplicationProtocol => "no gRPC is spoken there",
        other => return format!("the server broke off TLS: {other:?}"),
    };
    said.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_known_by_its_text_alone() {
        for alert in ALERTS {
            let text = format!("error reading: {}", TlsError::AlertReceived(alert));
            assert_eq!(alert_in(&text), Some(alert));
        }
        assert_eq!(alert_in("connection reset"), None);
    }
}
