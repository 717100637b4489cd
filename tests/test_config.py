"""``config.toml``: every key has a default, a comment and a bound; what is wrong is named with its line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.peer import config
from quidnunc.peer.cli import CommandParser
from quidnunc.peer.commands import run
from quidnunc.peer.config import (
    CONFIG_BYTES_MAX,
    Config,
    Data,
    Network,
    load,
    parse,
    render,
    render_default_config,
)
from quidnunc.peer.config_text import toml_literal


def fields() -> list[tuple[str, str, Any]]:
    """Every key as (section, key, its annotation)."""
    found = []
    for section in msgspec.structs.fields(Config):
        hints = get_type_hints(section.type, include_extras=True)
        found += [(section.name, key, hint) for key, hint in hints.items()]
    return found


def set_one(section: str, key: str, value: Any) -> str:
    """A file in which one key has ``value``."""
    return f"version = 1\n[{section}]\n{key} = {toml_literal(value)}\n"


def get_one(found: Config, section: str, key: str) -> Any:
    return getattr(getattr(found, section), key)


def test_an_empty_file_means_the_defaults() -> None:
    assert parse("version = 1") == Config()


def test_what_init_writes_loads_back_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(render_default_config("peer"))
    assert load(path) == Config()


@pytest.mark.parametrize(("section", "key", "hint"), fields())
def test_every_key_stands_in_the_written_file_under_a_comment(section: str, key: str, hint: Any) -> None:
    lines = render_default_config("peer").splitlines()
    written = tomllib.loads("\n".join(lines))
    assert key in written[section]
    header = f"[{section}.{key}]"
    at = lines.index(header) if header in lines else [line.split(" = ")[0] for line in lines].index(key)
    comment = lines[at - 1]
    assert comment.startswith("# ")
    assert len(comment) > 10
    assert len(comment) <= 120


def test_sections_given_to_the_writer_are_in_the_file() -> None:
    network = Network(listen=("/ip4/0.0.0.0/tcp/4901",), peers={'ward "7"\\': ("/ip4/10.0.0.2/tcp/1", "/dns/x/tcp/1")})
    data = Data(path="/srv/ünïcode\t", options={"fold": 3, "rate": 0.5, "on": True, "site": "a"})
    found = parse(render_default_config("Hospital Ä", network=network, data=data))
    assert (found.node.name, found.network, found.data) == ("Hospital Ä", network, data)


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines", "\x1b[2J"])
def test_a_name_that_will_not_do_is_refused_when_it_is_written(name: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.name"):
        render_default_config(name)


def bounded() -> list[Any]:
    """Every key with a numeric bound."""
    found = []
    for section, key, hint in fields():
        for meta in getattr(hint, "__metadata__", ()):
            if meta.ge is not None or meta.le is not None:
                found.append(pytest.param(section, key, get_args(hint)[0], meta.ge, meta.le, id=f"{section}.{key}"))
    return found


@pytest.mark.parametrize(("section", "key", "kind", "low", "high"), bounded())
def test_every_number_is_accepted_at_its_limits_and_refused_one_past_them(
    section: str, key: str, kind: type, low: float, high: float
) -> None:
    for value in (low, high):
        assert get_one(parse(set_one(section, key, kind(value))), section, key) == value
    step = 1 if kind is int else 1e-9 * max(1.0, high)
    for value in (low - step, high + step):
        with pytest.raises(ConfigError, match=rf"config\.toml:3: {section}\.{key} = .*: expected"):
            parse(set_one(section, key, value))


@pytest.mark.parametrize(("section", "key", "hint"), fields())
def test_every_number_has_both_bounds_and_every_collection_and_string_a_longest_one(
    section: str, key: str, hint: Any
) -> None:
    assert get_origin(hint) is Annotated
    inner = get_args(hint)[0]
    metas = [meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
    if inner in (int, float):
        assert any(meta.ge is not None for meta in metas)
        assert any(meta.le is not None for meta in metas)
    elif inner is str or get_origin(inner) in (tuple, dict):
        assert any(meta.max_length is not None for meta in metas)


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda n: "[network]\nlisten = [" + '"/ip4/1.2.3.4/tcp/1",' * n + "]", 8),
        (lambda n: "[network]\nannounce = [" + '"/ip4/1.2.3.4/tcp/1",' * n + "]", 8),
        (lambda n: '[network]\nlisten = ["/' + "x" * (n - 1) + '"]', 256),
        (lambda n: "[network.peers]\n" + "".join(f'p{i} = ["/ip4/1.2.3.4/tcp/1"]\n' for i in range(n)), 64),
        (lambda n: "[network.peers]\nb = [" + '"/ip4/1.2.3.4/tcp/1",' * n + "]", 8),
        (lambda n: "[data.options]\n" + "".join(f"o{i} = 1\n" for i in range(n)), 64),
        (lambda n: f'[data]\npath = "{"x" * n}"', 4096),
        (lambda n: f'[node]\nname = "{"x" * n}"', 64),
        (lambda n: f'[drill]\nattack = "{"x" * n}"', 64),
    ],
)
def test_every_length_is_accepted_at_its_limit_and_refused_one_past_it(make: Any, limit: int) -> None:
    parse("version = 1\n" + make(limit))
    with pytest.raises(ConfigError):
        parse("version = 1\n" + make(limit + 1))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "config.toml: no version, this program reads version = 1", "put version = 1 on the first line"),
        ("version = 2", "config.toml: version = 2, this program reads version = 1", ""),
        ("version = true", "config.toml: version = True", ""),
        ("version = 1\n[network", "config.toml: not TOML: expected ']' at the end", ""),
        ("version = 1\na = 1\na = 2", "config.toml: not TOML", ""),
        (f"version = 1\na = {'9' * 5000}", "config.toml: not TOML", ""),
        ("version = 1\n[netwrk]\nx = 1", "config.toml:2: netwrk: no such section", "did you mean network?"),
        ("version = 1\n[zzz]", "config.toml:2: zzz: no such section", "known here: node, network"),
        ("version = 1\nlisten = []", "config.toml:2: listen: no such section", "known here: node"),
        (
            "version = 1\n[network]\n\nlistn = []",
            "config.toml:4: network.listn: no such key",
            "did you mean listen?",
        ),
        (
            "version = 1\n[log]\n'levle' = 'info'",
            "config.toml:3: log.levle: no such key",
            "did you mean level?",
        ),
        (
            "version = 1\n[network]\nping_interval_s = 0.1 # too often",
            "config.toml:3: network.ping_interval_s = 0.1: expected float >= 0.5",
            "",
        ),
        (
            "version = 1\n[training]\nthreads = 'two'",
            'config.toml:3: training.threads = "two": expected int',
            "",
        ),
        ("version = 1\n[training]\nthreads = true", "training.threads = true: expected int, got bool", ""),
        ("version = 1\n[training]\nthreads = 1.0", "training.threads = 1.0: expected int, got float", ""),
        (
            "version = 1\n[log]\nlevel = 'loud'",
            'log.level = "loud": invalid enum',
            "one of: debug, info, warning",
        ),
        (
            "version = 1\n[network]\nlisten = ['here']",
            "config.toml:3: network.listen",
            "/ip4/10.0.0.2/tcp/4901",
        ),
        (
            "version = 1\n[network.peers]\nb = ['here']",
            "config.toml:2: network.peers",
            "/ip4/10.0.0.2/tcp/4901",
        ),
        ("version = 1\n[privacy]\nepsilon_cap = nan", "privacy.epsilon_cap = nan: expected float >= 0.0", ""),
        ("version = 1\n[data.options]\na = [1]", "data.options", ""),
        ("version = 1\n[data.options]\na = 9223372036854775808", "expected int <= 9223372036854775807", ""),
        ("version = 1\nnode = 3", "config.toml:2: node = 3: expected object, got int", ""),
    ],
)
def test_what_is_wrong_is_named_with_line_key_value_and_bound(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match=r"config\.toml: no such file") as caught:
        load(path)
    assert "init --config-only" in caught.value.hint
    path.write_bytes(b"version = 1 # \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 14"):
        load(path)
    path.write_bytes(b"version = 1\n" + b"#" * (CONFIG_BYTES_MAX - 12))
    assert load(path) == Config()
    path.write_bytes(b"version = 1\n" + b"#" * (CONFIG_BYTES_MAX - 11))
    with pytest.raises(ConfigError, match=f"limit is {CONFIG_BYTES_MAX}"):
        load(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path)


plain = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(
    name=plain,
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    options=st.dictionaries(
        plain,
        st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | plain,
        max_size=5,
    ),
    peers=st.dictionaries(plain, st.just(("/ip4/127.0.0.1/tcp/1",)), max_size=3),
)
@settings(deadline=None, max_examples=100)
def test_every_configuration_survives_being_written(name: str, path: str, options: Any, peers: Any) -> None:
    made = Config(node=config.Node(name=name), network=Network(peers=peers), data=Data(path=path, options=options))
    assert parse(render(made)) == made


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_text_is_a_configuration_or_one_error(text: str) -> None:
    for candidate in (text, "version = 1\n" + text, "version = 1\n[network]\n" + text):
        try:
            parse(candidate)
        except ConfigError:
            continue


def test_the_comments_of_a_new_file_are_true() -> None:
    text = render_default_config("A")
    words = text.splitlines()[0].rpartition("quidnunc ")[2].split()
    assert words == ["run", "--check"]
    parser = CommandParser()
    run.register(parser)
    assert parser.parse_args(words[1:]).check
    assert "the ledger does not record it" in text
