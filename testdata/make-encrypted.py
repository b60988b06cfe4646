#!/usr/bin/env python3
"""Makes encrypted.img.gz and encrypted.names: an ext4 with encrypted directories, and the names that the kernel lists in
them without the key. Needs root, mke2fs, and a kernel with fscrypt. usage: make-encrypted.py DIR"""

import fcntl
import gzip
import os
import struct
import subprocess
import sys
import tempfile


def ioctl_number(direction, number, size):
    return direction << 30 | size << 16 | ord("f") << 8 | number


ADD_ENCRYPTION_KEY = ioctl_number(3, 23, 80)
SET_ENCRYPTION_POLICY = ioctl_number(2, 19, 12)
AES_256_XTS, AES_256_CTS = 1, 4


def add_key(root):
    """Gives the file system a key that everybody knows, and returns its identifier."""
    key = bytes(range(64))
    argument = bytearray(struct.pack("<II32xII32x", 2, 0, len(key), 0) + key)
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.ioctl(descriptor, ADD_ENCRYPTION_KEY, argument, True)
    os.close(descriptor)
    return bytes(argument[8:24])


def make_directory(path, identifier, padding, names):
    os.mkdir(path)
    descriptor = os.open(path, os.O_RDONLY)
    policy = struct.pack("<BBBBB3x16s", 2, AES_256_XTS, AES_256_CTS, padding, 0, identifier)
    fcntl.ioctl(descriptor, SET_ENCRYPTION_POLICY, bytearray(policy), True)
    os.close(descriptor)
    for name in names:
        open(f"{path}/{name}", "w").close()


def list_names(root):
    for directory in "few", "many":
        for name in sorted(os.listdir(f"{root}/{directory}")):
            yield f"{directory} {os.lstat(f'{root}/{directory}/{name}').st_ino} {name}\n"


def main(to):
    with tempfile.TemporaryDirectory() as work:
        image, root = f"{work}/image", f"{work}/root"
        os.mkdir(root)
        run = lambda *arguments: subprocess.run(arguments, check=True)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-N", "512", "-O",
            "encrypt,^has_journal", image, "2M")
        run("mount", "-o", "loop", image, root)
        identifier = add_key(root)
        lengths = ["a", "plain name", "x" * 100, "y" * 150, "z" * 200, "w" * 255]
        make_directory(f"{root}/few", identifier, 3, lengths)
        with open(f"{root}/few/file", "w") as file:
            file.write("secret")
        os.symlink("target", f"{root}/few/link")
        many = [f"a file with a rather long name, number {number}" for number in range(150)]
        make_directory(f"{root}/many", identifier, 0, many)
        run("umount", root)
        # Mounted again there is no key.
        run("mount", "-o", "loop,ro", image, root)
        with open(f"{to}/encrypted.names", "w") as names:
            names.writelines(list_names(root))
        run("umount", root)
        with open(image, "rb") as raw, gzip.GzipFile(f"{to}/encrypted.img.gz", "wb", mtime=0) as packed:
            packed.write(raw.read())


main(sys.argv[1])
