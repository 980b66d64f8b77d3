"""No test reaches further than this machine: Python runs this at its start where this folder is on PYTHONPATH, and
tests/conftest.py puts it there, so that the guard holds in the processes that tests start as well."""

from __future__ import annotations

import errno
import ipaddress
import socket

_connect, _connect_ex, _look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
_sendto, _sendmsg = socket.socket.sendto, socket.socket.sendmsg
_by_name = {name: getattr(socket, name) for name in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr")}


def _is_here(family: int, address: object) -> bool:
    return family not in (socket.AF_INET, socket.AF_INET6) or _is_loopback(address[0])


def _is_loopback(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback or name in ("0.0.0.0", "::")
    except ValueError:
        return False


def connect(self, address):
    if not _is_here(self.family, address):
        raise OSError(errno.ENETUNREACH, f"tests reach no network: {address}")
    return _connect(self, address)


def connect_ex(self, address):
    return _connect_ex(self, address) if _is_here(self.family, address) else errno.ENETUNREACH


def sendto(self, data, *flags_and_address):
    if not _is_here(self.family, flags_and_address[-1]):
        raise OSError(errno.ENETUNREACH, f"tests reach no network: {flags_and_address[-1]}")
    return _sendto(self, data, *flags_and_address)


def sendmsg(self, buffers, ancdata=(), flags=0, address=None):
    if address is not None and not _is_here(self.family, address):
        raise OSError(errno.ENETUNREACH, f"tests reach no network: {address}")
    return _sendmsg(self, buffers, ancdata, flags, *([] if address is None else [address]))


def looks_up(name):
    def look_up(host):
        if not _is_loopback(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests reach no network: {host}")
        return _by_name[name](host)

    return look_up


def getaddrinfo(host, *arguments, **options):
    if not _is_loopback(host) and not options.get("flags", 0) & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, f"tests reach no network: {host}")
    return _look_up(host, *arguments, **options)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
socket.socket.sendto, socket.socket.sendmsg = sendto, sendmsg
for name in _by_name:
    setattr(socket, name, looks_up(name))
