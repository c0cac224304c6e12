"""The file under a name is at every moment the old one or the new one, whole."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from softhead._files import atomic_output

OLD = b"the old contents \x00\xff\n"
POSIX = os.name == "posix"
needs_posix = pytest.mark.skipif(not POSIX, reason="signals, permission bits and pipes of POSIX systems")


def child(code, *arguments, **options):
    """Start a Python process that runs `code` with `arguments`."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def outcome(process):
    """What a child printed, once it has ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()


@pytest.fixture
def old(tmp_path):
    """A file with the old contents, alone in its folder."""
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    return path


def assert_untouched(path):
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_contents_appear_at_the_end_and_all_at_once(old):
    with atomic_output(old) as file:
        file.write(b"new")
        file.flush()
        assert old.read_bytes() == OLD
        (temporary,) = set(os.listdir(old.parent)) - {old.name}
        assert temporary.startswith(".model.bin.")
        assert temporary.endswith(".tmp")
    assert old.read_bytes() == b"new"
    assert os.listdir(old.parent) == [old.name]


def test_a_new_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new.bin"
    with atomic_output(str(path)) as file:
        file.write(b"\r\n\x00")
        assert not path.exists()
    assert path.read_bytes() == b"\r\n\x00"


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    path = tmp_path / "labels.csv"
    with atomic_output(path, "w") as file:
        file.write("é,\U0001f600\n\r\n")
    assert path.read_bytes() == "é,\U0001f600\n\r\n".encode()


def test_other_modes_are_refused(old):
    with pytest.raises(ValueError, match="mode must be 'wb' or 'w', got 'a'"), atomic_output(old, "a"):
        pass
    assert_untouched(old)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), OSError("of no number")])
def test_an_exception_leaves_the_old_file(old, error):
    def write():
        with atomic_output(old) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert_untouched(old)


def test_an_exception_leaves_no_new_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "new.bin"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_errors_of_other_files_keep_their_names(old):
    with pytest.raises(FileNotFoundError) as caught, atomic_output(old):
        (old.parent / "source.csv").read_bytes()
    assert caught.value.filename == str(old.parent / "source.csv")
    assert_untouched(old)


def test_contents_reach_the_disk_before_the_name(old, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        status = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(descriptor)

    def record_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with atomic_output(old) as file:
        file.write(b"new")
    assert calls == ["3 bytes", "replace"] + ["folder"] * hasattr(os, "O_DIRECTORY")


def test_a_full_disk_leaves_the_old_file(old, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as caught, atomic_output(old) as file:
        file.write(b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(old))
    assert_untouched(old)


@needs_posix
def test_a_write_cut_short_leaves_the_old_file(old):
    process = child(
        """
        import resource, sys
        from softhead._files import atomic_output
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with atomic_output(sys.argv[1]) as file:
                for _ in range(100):
                    file.write(b"x" * 10_000)
        except OSError as error:
            print(error.errno, error.filename)
        """,
        old,
    )
    assert outcome(process) == [str(errno.EFBIG), str(old)]
    assert_untouched(old)


def test_a_folder_that_cannot_be_synchronised_is_no_error(old, monkeypatch):
    fsync = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with atomic_output(old) as file:
        file.write(b"new")
    assert old.read_bytes() == b"new"


def test_a_folder_is_refused_at_once(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "none") + "/"):
        with pytest.raises(IsADirectoryError) as caught, atomic_output(path):
            pytest.fail("the block was entered")
        assert caught.value.filename == path
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named_as_the_user_named_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught, atomic_output(Path("none", "model.bin")):
        pytest.fail("the block was entered")
    assert caught.value.filename == os.path.join("none", "model.bin")
    assert ".tmp" not in str(caught.value)


def test_a_failing_rename_names_the_path_alone(old):
    def write():
        with atomic_output(old) as file:
            file.write(b"new")
            old.unlink()
            old.mkdir()  # now the name cannot be given to a file

    with pytest.raises(OSError, match=r"model\.bin") as caught:
        write()
    assert (caught.value.filename, caught.value.filename2) == (str(old), None)
    assert os.listdir(old.parent) == [old.name]


def test_long_names(tmp_path):
    path = tmp_path / ("x" * 250)
    with atomic_output(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    too_long = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="x" * 300), atomic_output(too_long):
        pytest.fail("the block was entered")


def test_two_writers_do_not_meet(old):
    with atomic_output(old) as first:
        with atomic_output(old) as second:
            second.write(b"second")
        first.write(b"first")
        assert old.read_bytes() == b"second"
    assert old.read_bytes() == b"first"
    assert os.listdir(old.parent) == [old.name]


@needs_posix
def test_permissions_are_those_of_open(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic_output(tmp_path / "new.bin") as file:
            file.write(b"new")
        with open(tmp_path / "plain.bin", "wb"):
            pass
        old = tmp_path / "old.bin"
        old.write_bytes(OLD)
        old.chmod(0o606)
        with atomic_output(old) as file:
            file.write(b"new")
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new.bin": 0o640, "plain.bin": 0o640, "old.bin": 0o606}


@needs_posix
def test_links_are_followed(old, tmp_path_factory):
    folder = tmp_path_factory.mktemp("links")
    link, dangling = folder / "link", folder / "dangling"
    link.symlink_to(old)
    dangling.symlink_to(folder / "made")
    for path in (link, dangling):
        with atomic_output(path) as file:
            file.write(b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"
    assert old.read_bytes() == (folder / "made").read_bytes() == b"new"
    assert sorted(os.listdir(folder)) == ["dangling", "link", "made"]


@needs_posix
def test_pipes_and_devices_are_written_directly(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with atomic_output(pipe) as file:
        file.write(b"through")
    reader.join()
    assert received == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with atomic_output(os.devnull) as file:
        file.write(b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_a_full_device_is_named():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"), atomic_output("/dev/full") as file:
        file.write(b"new")


@needs_posix
def test_folders_and_files_without_permission():
    # Root may write anywhere, so the child gives up its rights; all may search the folder, which tmp_path forbids.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed, opened = Path(folder, "closed"), Path(folder, "opened")
        for place in (closed, opened):
            place.mkdir()
            (place / "old").write_bytes(OLD)
            (place / "old").chmod(0o666)
        closed.chmod(0o555)
        (opened / "protected").write_bytes(OLD)
        (opened / "protected").chmod(0o444)
        opened.chmod(0o777)
        process = child(
            """
            import os, sys
            from softhead._files import atomic_output
            if os.geteuid() == 0:
                os.setuid(65534)
            for path in sys.argv[1:]:
                try:
                    with atomic_output(path) as file:
                        file.write(b"new")
                    print("written")
                except PermissionError as error:
                    print("refused" if error.filename == path else error)
            """,
            *(closed / "old", closed / "new", opened / "protected", opened / "old", opened / "new"),
        )
        assert outcome(process) == ["refused", "refused", "refused", "written", "written"]
        assert {path.name: path.read_bytes() for path in closed.iterdir()} == {"old": OLD}
        contents = {path.name: path.read_bytes() for path in opened.iterdir()}
        assert contents == {"protected": OLD, "old": b"new", "new": b"new"}


@needs_posix
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_process_killed_before_the_renaming_leaves_the_old_file(old, function):
    process = child(
        """
        import os, signal, sys
        from softhead._files import atomic_output
        setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with atomic_output(sys.argv[1]) as file:
            file.write(b"new")
        """,
        old,
        function,
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert old.read_bytes() == OLD
    (leftover,) = set(os.listdir(old.parent)) - {old.name}
    assert leftover.startswith(".model.bin.")


@needs_posix
def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    size, path = 200_000, tmp_path / "generations"
    for saves in range(1, 26):
        process = child(
            """
            import sys
            from softhead._files import atomic_output
            for generation in range(256):
                with atomic_output(sys.argv[1]) as file:
                    for _ in range(100):
                        file.write(bytes([generation]) * (int(sys.argv[2]) // 100))
                print(generation, flush=True)
            """,
            path,
            size,
        )
        with process:
            for _ in range(saves):
                last = int(process.stdout.readline())
            time.sleep(saves * 5e-5)  # into one of the stages of the next save
            process.kill()
        contents = path.read_bytes()
        assert len(contents) == size
        assert len(set(contents)) == 1
        assert contents[0] >= last  # what was said to be saved is
