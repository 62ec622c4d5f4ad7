//! The least of HTTP/1.1 that a load needs: one connection kept while the server keeps it, whole answers read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::{Outcome, fail};

pub struct Connection {
    address: String,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// Host and what the caller adds to each request.
    headers: String,
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
}

fn connect(address: &str) -> Outcome<(TcpStream, BufReader<TcpStream>)> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let reader = BufReader::with_capacity(1 << 18, stream.try_clone()?);
    Ok((stream, reader))
}

impl Connection {
    pub fn open(address: &str, extra: &[String]) -> Outcome<Self> {
        let (stream, reader) = connect(address)?;
        let headers = std::iter::once(format!("Host: {address}\r\n"))
            .chain(extra.iter().map(|header| format!("{header}\r\n")))
            .collect();
        Ok(Self { address: address.to_owned(), stream, reader, headers, buffer: vec![0; 1 << 18] })
    }

    pub fn get(&mut self, path: &str) -> Outcome<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.headers);
        self.stream.write_all(request.as_bytes())?;
        self.answer()
    }

    pub fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> Outcome<Answer> {
        let head = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.headers,
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        self.answer()
    }

    fn answer(&mut self) -> Outcome<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let Some(status) = status else { return fail(format!("no status line: {line}")) };
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse().map_err(std::io::Error::other)?);
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let length = match length {
            _ if chunked => self.chunks()?,
            Some(length) => self.skip(length).map(|()| length)?,
            None if status == 204 => 0,
            None => self.rest()?,
        };
        Ok(Answer { status, length })
    }

    /// A body that ends with its connection (RFC 9112 §6.3); the next request needs another one.
    fn rest(&mut self) -> Outcome<u64> {
        let mut total = 0;
        loop {
            match self.reader.read(&mut self.buffer)? {
                0 => break,
                length => total += length as u64,
            }
        }
        (self.stream, self.reader) = connect(&self.address)?;
        Ok(total)
    }

    fn chunks(&mut self) -> Outcome<u64> {
        let mut total = 0;
        loop {
            let line = self.line()?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            self.skip(length)?;
            total += length;
            // The line end behind the chunk, or behind the last.
            self.line()?;
            if length == 0 {
                return Ok(total);
            }
        }
    }

    fn skip(&mut self, length: u64) -> Outcome<()> {
        let mut left = length;
        while left > 0 {
            let part = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.reader.read_exact(&mut self.buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return fail("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }
}
