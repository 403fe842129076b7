import pytest

from isoform.errors import DescriptorError
from isoform.images.mend import GROUP, PASSWD, add_users
from isoform.images.users import resolve_user
from isoform.images.whiteout import merged
from isoform.model import User

ETC_PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbad line\nodd:x:one:2:::\n"
ETC_GROUP = "root:x:0:\nweb:x:33:\nadm:x:4:syslog,web\ntty:x:5:web\nodd:x:x:web\n"


@pytest.mark.parametrize("text, user", [
    ("", User(0, 0, (), "root", "/root")),
    ("root", User(0, 0, (), "root", "/root")),
    ("web", User(33, 33, (4, 5), "web", "/var/www")),
    ("33", User(33, 33, (4, 5), "web", "/var/www")),
    ("web:adm", User(33, 4, (), "web", "/var/www")),
    ("web:", User(33, 33, (4, 5), "web", "/var/www")),
    ("1000", User(1000, 0, (), "1000", "/")),
    ("1000:2000", User(1000, 2000, (), "1000", "/")),
    (":5", User(0, 5, (), "root", "/root")),
])
def test_a_user_is_who_the_image_says(text, user):
    assert resolve_user(text, ETC_PASSWD, ETC_GROUP, "image x") == user


def test_an_image_without_accounts_has_root_and_numbers():
    assert resolve_user("root", "", "", "image x") == User()
    assert resolve_user("7:8", "", "", "image x") == User(7, 8, (), "7", "/")


@pytest.mark.parametrize("text", ["nobody", "web:wheel", "4294967295", "0:4294967295", "odd"])
def test_a_user_that_the_image_lacks_is_refused(text):
    with pytest.raises(DescriptorError, match="image x"):
        resolve_user(text, ETC_PASSWD, ETC_GROUP, "image x")


def test_the_topmost_layer_that_speaks_of_a_file_decides():
    low, silent, removes, high = {"passwd": "low"}, {}, {"passwd": None}, {"passwd": "high"}
    assert merged([low, silent], "passwd") == "low"
    assert merged([low, high, silent], "passwd") == "high"
    assert merged([low, removes], "passwd") == ""
    assert merged([low, removes, high], "passwd") == "high"


def test_added_users_get_free_numbers_and_groups_of_their_names():
    passwd, group = add_users(PASSWD, GROUP, ["dns", "www-data", "sip"])
    assert resolve_user("dns", passwd, group, "") == User(101, 101, (), "dns", "/nonexistent")  # 100 is group users
    assert resolve_user("sip", passwd, group, "").uid == 102
    assert passwd.count("\nwww-data:") == 1
    assert add_users(passwd, group, ["dns", "sip"]) == (passwd, group)
